/* Products of the listed weights of a matrix w [rows, width] and few columns, and the search for low scores among them;
   pruning/listed.py and pruning/rounds.py call this. */

#ifndef T

enum { TILE = 256 }; /* columns of w whose sums stay in the innermost caches: `TILE` of listed.py */

/* For each of `count` listed weights, ascending flat indices (NULL = every weight is listed), its `column` in its tile,
   and where the lists of the rows' tiles start: `start` [rows * tiles + 1]. */
void list_tiles(uint8_t *column, int64_t *start, const int64_t *listed, long count, long rows, long width,
                long threads) {
  const long tiles = (width + TILE - 1) / TILE;
  PARALLEL for (long part = 0; part < threads; part++) {
    const long low = rows * part / threads, high = rows * (part + 1) / threads;
    long i = 0, after = count; /* bisection: `i` becomes the first that is listed of row `low` */
    while (i < after) {
      const long middle = (i + after) / 2;
      if ((listed ? listed[middle] : middle) < low * width) i = middle + 1;
      else after = middle;
    }
    for (long o = low; o < high; o++)
      for (long tile = 0; tile < width; tile += TILE) {
        const long first = o * width + tile, end = tile + TILE < width ? first + TILE : (o + 1) * width;
        start[o * tiles + tile / TILE] = i;
        for (; i < count && (listed ? listed[i] : i) < end; i++) column[i] = (listed ? listed[i] : i) - first;
      }
  }
  start[rows * tiles] = count;
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

#define NARROW (32 / (long)sizeof(T)) /* numbers in a vector, whatever the instruction set: so are the sums */
#define MOST (4 * NARROW)             /* positions that are taken at a time */

typedef T FUNCTION(narrow) __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
#define VECTORS(place) ((FUNCTION(narrow) *)(place))
#define AHEAD (o + 1 < rows ? start[(o + 1) * tiles + t] - start[o * tiles + t] : 0) /* to the list of the next row */

/* to[c, 0 : 4 vectors] = from[c, 0 : n], and zeros */
static inline __attribute__((always_inline)) void FUNCTION(pack)(T *to, const T *from, long rows, long n, long stride,
                                                                 long vectors) {
  for (long c = 0; c < rows; c++)
    for (long p = 0; p < vectors * NARROW; p++) to[c * vectors * NARROW + p] = p < n ? from[c * stride + p] : 0;
}

/* `BODY(vectors)` for all n positions, as many at a time as fit 1 to 4 vectors: `here` of them from `p`. */
#define POSITIONS(BODY)                            \
  for (long p = 0; p < n; p += MOST) {             \
    const long here = p + MOST < n ? MOST : n - p; \
    switch ((here + NARROW - 1) / NARROW) {        \
      case 1: BODY(1) break;                       \
      case 2: BODY(2) break;                       \
      case 3: BODY(3) break;                       \
      case 4: BODY(4) break;                       \
    }                                              \
  }

/* y[o, p] = sum over the listed weights i = (o, c) of w[i] * u[c, p], for u [width, n]. */
void FUNCTION(listed_product)(T *y, const T *w, const T *u, const uint8_t *column, const int64_t *start, long rows,
                              long width, long n, long threads) {
  const long tiles = (width + TILE - 1) / TILE;
#define BODY(vectors)                                                                                \
  for (long t = 0; t < tiles; t++) {                                                                 \
    const long size = t + 1 < tiles ? TILE : width - t * TILE;                                       \
    FUNCTION(pack)(in, u + t * TILE * n + p, size, here, n, vectors);                                \
    for (long o = rows * part / threads; o < rows * (part + 1) / threads; o++) {                     \
      const int64_t end = start[o * tiles + t + 1], ahead = AHEAD;                                   \
      int64_t i = start[o * tiles + t];                                                              \
      FUNCTION(narrow) sum[vectors] = {0}, odd[vectors] = {0};                                       \
      for (; i + 1 < end; i += 2) {                                                                  \
        const FUNCTION(narrow) *a = VECTORS(in) + column[i] * vectors;                               \
        const FUNCTION(narrow) *b = VECTORS(in) + column[i + 1] * vectors;                           \
        __builtin_prefetch(w + i + ahead);                                                           \
        __builtin_prefetch(column + i + ahead);                                                      \
        for (int v = 0; v < vectors; v++) sum[v] += w[i] * a[v], odd[v] += w[i + 1] * b[v];          \
      }                                                                                              \
      if (i < end)                                                                                   \
        for (int v = 0; v < vectors; v++) sum[v] += w[i] * (VECTORS(in) + column[i] * vectors)[v];   \
      for (int v = 0; v < vectors; v++) sum[v] += odd[v];                                            \
      for (long j = 0; j < here; j++) y[o * n + p + j] = ((T *)sum)[j] + (t ? y[o * n + p + j] : 0); \
    }                                                                                                \
  }
  PARALLEL for (long part = 0; part < threads; part++) {
    T in[TILE * MOST] __attribute__((aligned(64)));
    POSITIONS(BODY)
  }
#undef BODY
}

/* The backward pass of that, for d [rows, n]:
     onward[c, p] = sum over the listed weights (o, c) of w[i] * d[o, p]
     flow[i] (+)= sum over p of d[o, p] * u[c, p] */
void FUNCTION(listed_backward)(T *flow, T *onward, const T *w, const T *d, const T *u, const uint8_t *column,
                               const int64_t *start, long rows, long width, long n, long add, long threads) {
  const long tiles = (width + TILE - 1) / TILE;
#define BODY(vectors)                                                                           \
  FUNCTION(pack)(in, u + t * TILE * n + p, size, here, n, vectors);                             \
  memset(out, 0, sizeof(T) * size * vectors * NARROW);                                          \
  for (long o = 0; o < rows; o++) {                                                             \
    const int64_t from = start[o * tiles + t], end = start[o * tiles + t + 1], ahead = AHEAD;   \
    FUNCTION(narrow) delta[vectors];                                                            \
    if (from == end) continue;                                                                  \
    FUNCTION(pack)((T *)delta, d + o * n + p, 1, here, n, vectors);                             \
    for (int64_t i = from; i < end; i++) {                                                      \
      const FUNCTION(narrow) *x = VECTORS(in) + column[i] * vectors;                            \
      FUNCTION(narrow) *y = VECTORS(out) + column[i] * vectors, sum = delta[0] * x[0];          \
      y[0] += w[i] * delta[0];                                                                  \
      for (int v = 1; v < vectors; v++) sum += delta[v] * x[v], y[v] += w[i] * delta[v];        \
      VECTORS(sums)[i - from] = sum;                                                            \
      __builtin_prefetch(w + i + ahead);                                                        \
      __builtin_prefetch(column + i + ahead);                                                   \
      __builtin_prefetch(flow + i + ahead, 1);                                                  \
    }                                                                                           \
    for (int64_t i = from; i < end; i++) {                                                      \
      const T *s = sums + (i - from) * NARROW;                                                  \
      T sum = (s[0] + s[1]) + (s[2] + s[3]);                                                    \
      if (NARROW > 4) sum += (s[NARROW - 4] + s[NARROW - 3]) + (s[NARROW - 2] + s[NARROW - 1]); \
      flow[i] = sum + (add || p ? flow[i] : 0);                                                 \
    }                                                                                           \
  }                                                                                             \
  for (long c = 0; c < size; c++)                                                               \
    for (long j = 0; j < here; j++) onward[(t * TILE + c) * n + p + j] = out[c * vectors * NARROW + j];
  PARALLEL for (long t = 0; t < tiles; t++) {
    T in[TILE * MOST] __attribute__((aligned(64))), out[TILE * MOST] __attribute__((aligned(64)));
    T sums[TILE * NARROW] __attribute__((aligned(64)));
    const long size = t + 1 < tiles ? TILE : width - t * TILE;
    POSITIONS(BODY)
  }
#undef BODY
}

#undef NARROW
#undef MOST
#undef VECTORS
#undef AHEAD
#undef POSITIONS

/* The scores that are `here` and at most `limit`, in order: their places and values. Of each of `threads` equal parts
   they are written from the part's beginning, `count` of them; what follows them there is undefined. */
void FUNCTION(at_most)(int64_t *count, int64_t *place, T *value, const T *score, const uint8_t *here, const T *limit,
                       long size, long threads) {
  const T most = *limit;
  PARALLEL for (long part = 0; part < threads; part++) {
    const long from = size * part / threads, end = size * (part + 1) / threads;
    long to = from;
    for (long i = from; i < end; i++) { /* without a branch, which would be guessed wrong too often */
      place[to] = i;
      value[to] = score[i];
      to += here[i] & (score[i] <= most);
    }
    count[part] = to - from;
  }
}

#endif
