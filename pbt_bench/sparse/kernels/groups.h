/* Sums of group gradients and of their squares; pruning/group_gradients.py calls this. */

#ifndef T

enum {
  ACROSS = 64,     /* columns of a tile */
  DOWN = 32,       /* its rows */
  TOGETHER = 4,    /* rows that are multiplied together */
  POSITIONS = 256, /* that a group may have: `POSITIONS` of pruning/tuning.py */
  SLAB = 512       /* positions of the groups that a tile meets before the next */
};

#else

#define LOAD(address) (*(const VECTOR *)(address))

/* For every group, with own = d u' of its d [rows, n] and u [width, n]:
     sum [rows, width] += own,    square [rows, width] += own * own
   A tile of both sums stays in the innermost cache while a slab of groups is added to it, one after another. */
void FUNCTION(group_sums)(T *sum, T *square, const T *d, const T *u, long groups, long rows, long width, long n,
                          long threads) {
  if (n < 1) return; /* no position: nothing to add */
  const long tiles = (width + ACROSS - 1) / ACROSS, slab = SLAB / n;
  enum { STEP = 2 * WIDTH / sizeof(T) };
  PARALLEL for (long t = 0; t < tiles; t++) {
    T in[ACROSS * SLAB] __attribute__((aligned(WIDTH))); /* [group, column / step, n, step] */
    T own[STEP] __attribute__((aligned(WIDTH)));
    const long tile = t * ACROSS, size = tile + ACROSS < width ? ACROSS : width - tile;
    memset(in, 0, sizeof in);
    for (long first = 0; first < groups; first += slab) {
      const long last = first + slab < groups ? first + slab : groups;
      for (long g = first; g < last; g++)
        for (long c = 0; c < size; c++)
          for (long p = 0; p < n; p++)
            in[(g - first) * ACROSS * n + (c / STEP * n + p) * STEP + c % STEP] = u[(g * width + tile + c) * n + p];
      for (long block = 0; block < rows; block += DOWN)
        for (long g = first; g < last; g++)
          for (long o = block; o < rows && o < block + DOWN; o += TOGETHER) {
            const T *down[TOGETHER];
            for (long r = 0; r < TOGETHER; r++) down[r] = d + (g * rows + (o + r < rows ? o + r : o)) * n;
            for (long c = 0; c < size; c += STEP) {
              VECTOR x[TOGETHER] = {{0}}, y[TOGETHER] = {{0}};
              const T *at = in + ((g - first) * ACROSS + c) * n;
              for (long p = 0; p < n; p++, at += STEP) {
                const VECTOR left = LOAD(at), right = LOAD(at + LANES);
                for (long r = 0; r < TOGETHER; r++) {
                  x[r] += down[r][p] * left;
                  y[r] += down[r][p] * right;
                }
              }
              for (long r = 0; r < TOGETHER && o + r < rows; r++) {
                T *to = sum + (o + r) * width + tile + c, *too = square + (o + r) * width + tile + c;
                if (size - c >= STEP) {
                  *(VECTOR *)to += x[r];
                  *(VECTOR *)(to + LANES) += y[r];
                  *(VECTOR *)too += x[r] * x[r];
                  *(VECTOR *)(too + LANES) += y[r] * y[r];
                } else {
                  *(VECTOR *)own = x[r];
                  *(VECTOR *)(own + LANES) = y[r];
                  for (long i = 0; i < size - c; i++) {
                    to[i] += own[i];
                    too[i] += own[i] * own[i];
                  }
                }
              }
            }
          }
    }
  }
}

#undef LOAD

#endif
