/* Convolutions by their kept weights alone; sparse_convolution.py calls this.

   An activation is [positions, channels, n]: the n examples of a batch lie side by side, so every kept weight multiplies
   whole vectors, whatever the pattern of the mask. */

#ifndef T

enum { CACHE = 3 << 17 }; /* bytes of sums that stay in the cache of a core */

/* Which input channels the weights of an output row multiply, at every output position. Blocks of input channels are
   taken one after another, so that what many rows read stays in the innermost cache. */
typedef struct {
  const int32_t *base;   /* [positions] where offsets count from, in channels of the input, from its first */
  const int32_t *list;   /* [positions] which part of `start` holds the position's weights */
  const int32_t *kind;   /* [positions] which kernel taps lie inside the input */
  const int32_t *first;  /* [kinds + 1] of the runs of a kind */
  const int32_t *runs;   /* [runs, 2] taps from, to */
  const int32_t *start;  /* [lists, blocks * rows * taps + 1] of the weights of a block, row and tap */
  const int32_t *offset; /* [weights] of the input channel, from the base */
  const int32_t *slot;   /* [weights] index into the vector of weights */
  const int32_t *pair;   /* [pairs, 2] of positions alike in list and kind; -1 = no second */
  int64_t positions, pairs, rows, taps, blocks;
} Pattern;

#else

#define MANY (256 / WIDTH) /* vectors of examples that stay in registers */
#define TWO (WIDTH == 64)  /* whether they hold those of two positions */
/* For each weight `k` of row `o` and block `b` of input channels at position `q`. */
#define WEIGHTS                                                             \
  for (int32_t r = p->first[p->kind[q]]; r < p->first[p->kind[q] + 1]; r++) \
    for (int32_t k = start[o * p->taps + p->runs[2 * r]], end = start[o * p->taps + p->runs[2 * r + 1]]; k < end; k++)
#define START (p->start + p->list[q] + b * p->rows * p->taps)
#define INPUT(TYPE, from) ((const TYPE *)(from + p->offset[k] * n))
#define OUTPUT(TYPE, of, q) ((TYPE *)(of + ((q) * p->rows + o) * n + e))
/* `BODY(type, count)` for all n examples, as many at a time as registers hold, with `e` the first. */
#define EXAMPLES(BODY)                                                \
  long e = 0;                                                         \
  for (; e + MANY * LANES <= n; e += MANY * LANES) BODY(VECTOR, MANY) \
  for (; e + LANES <= n; e += LANES) BODY(VECTOR, 1)                  \
  for (; e < n; e++) BODY(T, 1)

/* y[q, o] = sum over weights of w * x[base + offset]. */
void FUNCTION(gather)(T *y, const T *x, const T *w, const Pattern *p, long n, long threads) {
#define BODY(TYPE, count)                                                \
  for (long b = 0; b < p->blocks; b++) {                                 \
    const int32_t *start = START;                                        \
    const T *here = x + p->base[q] * n + e;                              \
    for (long o = low; o < low + step; o++) {                            \
      if (b && start[o * p->taps] == start[(o + 1) * p->taps]) continue; \
      TYPE *out = OUTPUT(TYPE, y, q), sum[count];                        \
      for (int j = 0; j < count; j++) sum[j] = b ? out[j] : (TYPE){0};   \
      WEIGHTS {                                                          \
        const TYPE *in = INPUT(TYPE, here);                              \
        const T weight = w[p->slot[k]];                                  \
        for (int j = 0; j < count; j++) sum[j] += weight * in[j];        \
      }                                                                  \
      for (int j = 0; j < count; j++) out[j] = sum[j];                   \
    }                                                                    \
  }
  const long step = p->blocks == 1 ? 1 : p->rows;
  PARALLEL for (long q = 0; q < p->positions; q++) for (long low = 0; low < p->rows; low += step) { EXAMPLES(BODY) }
#undef BODY
}

/* dw[slot, :] += parts of the sum over positions and examples of d[q, o] * x[base + offset]. The weights of some rows
   and one block stay in the cache while all positions are added to them, two at a time if registers hold two. */
void FUNCTION(dots)(T *dw, const T *x, const T *d, const Pattern *p, long n, long threads) {
  const long cells = p->blocks * p->rows, weights = p->start[cells * p->taps]; /* of the one list that outputs have */
  const long some = 1 + cells * (CACHE / (LANES * (long)sizeof(T))) / (weights + 1);
#define ROWS(TYPE, count, two)                                                             \
  {                                                                                        \
    const int32_t *start = START;                                                          \
    const T *here = x + p->base[q] * n + e, *there = x + p->base[two ? other : q] * n + e; \
    for (long o = low; o < high && o < low + step; o++) {                                  \
      if (start[o * p->taps] == start[(o + 1) * p->taps]) continue;                        \
      TYPE delta[count], more[count];                                                      \
      for (int j = 0; j < count; j++) delta[j] = OUTPUT(const TYPE, d, q)[j];              \
      for (int j = 0; two && j < count; j++) more[j] = OUTPUT(const TYPE, d, other)[j];    \
      WEIGHTS {                                                                            \
        const TYPE *in = INPUT(TYPE, here), *too = INPUT(TYPE, there);                     \
        TYPE even = delta[0] * in[0], odd = {0};                                           \
        for (int j = 1; j < count; j += 2) odd += delta[j] * in[j];                        \
        for (int j = 2; j < count; j += 2) even += delta[j] * in[j];                       \
        for (int j = 0; two && j < count; j += 2) odd += more[j] * too[j];                 \
        for (int j = 1; two && j < count; j += 2) even += more[j] * too[j];                \
        *(TYPE *)(dw + p->slot[k] * LANES) += even + odd;                                  \
      }                                                                                    \
    }                                                                                      \
  }
#define BODY(TYPE, count)                              \
  {                                                    \
    long q = p->pair[2 * i];                           \
    const long other = p->pair[2 * i + 1];             \
    if (TWO && other >= 0) ROWS(TYPE, count, 1) else { \
        ROWS(TYPE, count, 0)                           \
        if ((q = other) >= 0) ROWS(TYPE, count, 0)     \
      }                                                \
  }
  PARALLEL for (long part = 0; part < threads; part++) {
    const long to = p->rows * (part + 1) / threads, step = p->blocks == 1 ? 1 : some;
    for (long b = 0; b < p->blocks; b++)
      for (long row = p->rows * part / threads; row < to; row += some) {
        const long high = row + some < to ? row + some : to;
        for (long i = 0; i < p->pairs; i++)
          for (long low = row; low < high; low += step) { EXAMPLES(BODY) }
      }
  }
#undef BODY
#undef ROWS
}

/* to[j, i] = from[i, j], by tiles that stay in registers or the cache. */
void FUNCTION(transpose)(T *to, const T *from, long rows, long columns, long threads) {
  enum { TILE = 16 };
  PARALLEL for (long j = 0; j < columns; j += TILE)
    for (long i = 0; i < rows; i += TILE)
      if (i + TILE <= rows && j + TILE <= columns) {
        T tile[TILE][TILE];
        for (long a = 0; a < TILE; a++)
          for (long b = 0; b < TILE; b++) tile[b][a] = from[(i + a) * columns + j + b];
        for (long b = 0; b < TILE; b++)
          for (long a = 0; a < TILE; a++) to[(j + b) * rows + i + a] = tile[b][a];
      } else
        for (long b = j; b < j + TILE && b < columns; b++)
          for (long a = i; a < i + TILE && a < rows; a++) to[b * rows + a] = from[a * columns + b];
}

#undef MANY
#undef WEIGHTS
#undef START
#undef INPUT
#undef OUTPUT
#undef TWO
#undef EXAMPLES

#endif
