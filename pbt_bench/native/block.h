/* The backward pass of a matrix w [rows, width] that meets few columns, and the search for low scores, both limited by
   memory; pruning/blocks.py and pruning/rounds.py call this. */

#ifndef T

enum {
  COLUMNS = 256, /* of w in a tile: `TILE` of blocks.py */
  FEW = 16,      /* columns that w may meet: `FEWER` of blocks.py */
  BYTES = 64     /* that are looked at together */
};

/* The tiles of a mask [rows, width] for `backward`: `column` and `start`. */
void list_tiles(uint8_t *column, int64_t *start, const uint8_t *mask, long rows, long width) {
  int64_t found = 0, list = 0;
  for (long o = 0; o < rows; o++)
    for (long tile = 0; tile < width; tile += COLUMNS) {
      const long size = tile + COLUMNS < width ? COLUMNS : width - tile;
      const uint8_t *kept = mask + o * width + tile;
      start[list++] = found;
      for (long c = 0; c < size; c++) {
        column[found] = c;
        found += kept[c];
      }
    }
  start[list] = found;
}

/* x[at] = 0 for numbers of `size` bytes. */
void clear(void *x, const int64_t *at, long count, long size, long threads) {
  PARALLEL for (long i = 0; i < count; i++) switch (size) {
      case 1: ((uint8_t *)x)[at[i]] = 0; break;
      case 4: ((uint32_t *)x)[at[i]] = 0; break;
      default: ((uint64_t *)x)[at[i]] = 0;
    }
}

#else

#define LOAD(place) (*(const VECTOR *)(place))

/* Both products of the backward pass in one reading of w, by tiles of columns:
     onward[p, c] = sum over o of d[o, p] * w[o, c]
     flow[i] (+)= sum over p of d[o, p] * u[p, c]    of the listed weights i = (o, c)
   `start` [rows * tiles + 1] tells which listed weights lie in a row's tile, `column` where in the tile; without them
   every weight is listed. */
void FUNCTION(backward)(T *flow, T *onward, const T *w, const T *d, const T *u, const uint8_t *column,
                        const int64_t *start, long rows, long width, long n, long add, long threads) {
  const long tiles = (width + COLUMNS - 1) / COLUMNS;
  static const T zeros[FEW];
  enum { STEP = 2 * WIDTH / sizeof(T) };
  PARALLEL for (long t = 0; t < tiles; t++) {
    T in[COLUMNS * FEW], out[COLUMNS * FEW], product[2][COLUMNS]; /* `in` and `out`: [column / step, n, step] */
    const long tile = t * COLUMNS, size = tile + COLUMNS < width ? COLUMNS : width - tile, whole = size / STEP * STEP;
    for (long c = 0; c < size; c++)
      for (long p = 0; p < n; p++) {
        const long place = c < whole ? (c / STEP * n + p) * STEP + c % STEP : c * n + p;
        in[place] = u[p * width + tile + c];
        out[place] = 0;
      }
    for (long o = 0; o < rows; o += 2) {
      const long two = o + 1 < rows;
      const T *a = w + o * width + tile, *b = two ? a + width : a;
      const T *da = d + o * n, *db = two ? da + n : zeros;
      for (long c = 0; c < whole; c += STEP) {
        const VECTOR a0 = LOAD(a + c), a1 = LOAD(a + c + LANES), b0 = LOAD(b + c), b1 = LOAD(b + c + LANES);
        __builtin_prefetch(a + 2 * width + c);
        __builtin_prefetch(b + 2 * width + c);
        VECTOR sa0 = {0}, sa1 = {0}, sb0 = {0}, sb1 = {0};
        const VECTOR *x = (const VECTOR *)(in + c * n);
        VECTOR *y = (VECTOR *)(out + c * n);
        for (long p = 0; p < n; p++, x += 2, y += 2) {
          sa0 += da[p] * x[0];
          sa1 += da[p] * x[1];
          sb0 += db[p] * x[0];
          sb1 += db[p] * x[1];
          y[0] += da[p] * a0;
          y[1] += da[p] * a1;
          y[0] += db[p] * b0;
          y[1] += db[p] * b1;
        }
        *(VECTOR *)(product[0] + c) = sa0;
        *(VECTOR *)(product[0] + c + LANES) = sa1;
        *(VECTOR *)(product[1] + c) = sb0;
        *(VECTOR *)(product[1] + c + LANES) = sb1;
      }
      for (long c = whole; c < size; c++) {
        T sa = 0, sb = 0;
        for (long p = 0; p < n; p++) {
          sa += da[p] * in[c * n + p];
          sb += db[p] * in[c * n + p];
          out[c * n + p] += da[p] * a[c] + db[p] * b[c];
        }
        product[0][c] = sa;
        product[1][c] = sb;
      }
      for (long r = 0; r <= two; r++) {
        const long list = (o + r) * tiles + t;
        T *to_whole = flow + (o + r) * width + tile;
        if (start)
          for (int64_t i = start[list]; i < start[list + 1]; i++)
            flow[i] = product[r][column[i]] + (add ? flow[i] : 0);
        else
          for (long c = 0; c < size; c++) to_whole[c] = product[r][c] + (add ? to_whole[c] : 0);
      }
    }
    for (long c = 0; c < size; c++)
      for (long p = 0; p < n; p++)
        onward[p * width + tile + c] = out[c < whole ? (c / STEP * n + p) * STEP + c % STEP : c * n + p];
  }
}

/* The scores that are `here` and at most `limit`, in order: their places and values. Of each of `threads` equal parts
   they are written from the part's beginning, `count` of them. */
void FUNCTION(at_most)(int64_t *count, int64_t *place, T *value, const T *score, const uint8_t *here, const T *limit,
                       long size, long threads) {
  const T most = *limit;
  PARALLEL for (long part = 0; part < threads; part++) {
    const long end = size * (part + 1) / threads;
    long i = size * part / threads, to = i;
    count[part] = -to;
    for (; i < end; i += BYTES) {
      const long some = i + BYTES < end ? BYTES : end - i;
      uint8_t low[BYTES] = {0};
      uint64_t any;
      for (long j = 0; j < some; j++) low[j] = here[i + j] & (score[i + j] <= most);
      for (long word = 0; word < BYTES; word += 8) {
        memcpy(&any, low + word, 8);
        if (any)
          for (long j = word; j < word + 8; j++)
            if (low[j]) {
              place[to] = i + j;
              value[to++] = score[i + j];
            }
      }
    }
    count[part] += to;
  }
}

#undef LOAD

#endif
