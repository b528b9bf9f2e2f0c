/* Convolutions by their kept weights alone; training/sparse.py calls this.

   An activation is [positions, channels, n]: the n examples of a batch lie side by side, so every kept weight multiplies
   whole vectors, whatever the pattern of the mask. */

#ifndef T

/* Which input channels the weights of an output row multiply, at every output position. */
typedef struct {
  const int32_t *base;   /* [positions] where offsets count from, in channels of the input, from its first */
  const int32_t *list;   /* [positions] which part of `start` holds the position's weights */
  const int32_t *kind;   /* [positions] which kernel taps lie inside the input */
  const int32_t *first;  /* [kinds + 1] of the runs of a kind */
  const int32_t *runs;   /* [runs, 2] taps from, to */
  const int32_t *start;  /* [lists, rows * taps + 1] of the weights of a row and tap */
  const int32_t *offset; /* [weights] of the input channel, from the base */
  const int32_t *slot;   /* [weights] place in the vector of weights */
  int64_t positions, rows, taps;
} Pattern;

#else

#define BYTES_PER_BLOCK 256 /* of the examples that stay in registers */
#define MANY (BYTES_PER_BLOCK / WIDTH)
#define AT(tensor, row) ((tensor) + (row) * n + e)
/* For each weight `k` of row `o` at position `q`. */
#define WEIGHTS                                                                                       \
  for (int32_t r = p->first[p->kind[q]]; r < p->first[p->kind[q] + 1]; r++)                           \
    for (int32_t k = start[o * p->taps + p->runs[2 * r]], end = start[o * p->taps + p->runs[2 * r + 1]]; \
         k < end; k++)
/* `BODY(vectors)` for all n examples, as many at a time as registers hold, with `e` the first; then `REST` one by one. */
#define EXAMPLES(BODY, REST)                                          \
  long e = 0;                                                         \
  for (; e + MANY * LANES <= n; e += MANY * LANES) BODY(MANY)         \
  for (; e + LANES <= n; e += LANES) BODY(1)                          \
  for (; e < n; e++) REST

/* y[q, o] = sum over weights of w * x[base + offset]. */
void FUNCTION(gather)(T *y, const T *x, const T *w, const Pattern *p, long n, long threads) {
  PARALLEL for (long q = 0; q < p->positions; q++) {
    const int32_t *start = p->start + p->list[q];
    for (long o = 0; o < p->rows; o++) {
      T *out = y + (q * p->rows + o) * n;
#define BODY(vectors)                                                          \
  {                                                                            \
    VECTOR sum[vectors] = {0};                                                 \
    WEIGHTS {                                                                  \
      const VECTOR *in = (const VECTOR *)AT(x, (long)p->base[q] + p->offset[k]); \
      const T weight = w[p->slot[k]];                                          \
      for (int j = 0; j < vectors; j++) sum[j] += weight * in[j];              \
    }                                                                          \
    for (int j = 0; j < vectors; j++) ((VECTOR *)(out + e))[j] = sum[j];       \
  }
      EXAMPLES(BODY, {
        T sum = 0;
        WEIGHTS sum += w[p->slot[k]] * *AT(x, (long)p->base[q] + p->offset[k]);
        out[e] = sum;
      })
#undef BODY
    }
  }
}

/* dw[slot, :] += parts of the sum over positions and examples of d[q, o] * x[base + offset]. */
void FUNCTION(dots)(T *dw, const T *x, const T *d, const Pattern *p, long n, long threads) {
  PARALLEL for (long part = 0; part < threads; part++) for (long q = 0; q < p->positions; q++) {
    const int32_t *start = p->start + p->list[q];
    for (long o = p->rows * part / threads; o < p->rows * (part + 1) / threads; o++) {
      const T *out = d + (q * p->rows + o) * n;
#define BODY(vectors)                                                          \
  {                                                                            \
    VECTOR delta[vectors];                                                     \
    for (int j = 0; j < vectors; j++) delta[j] = ((const VECTOR *)(out + e))[j]; \
    WEIGHTS {                                                                  \
      const VECTOR *in = (const VECTOR *)AT(x, (long)p->base[q] + p->offset[k]); \
      VECTOR even = delta[0] * in[0], odd = {0};                               \
      for (int j = 1; j < vectors; j += 2) odd += delta[j] * in[j];            \
      for (int j = 2; j < vectors; j += 2) even += delta[j] * in[j];           \
      *(VECTOR *)(dw + p->slot[k] * LANES) += even + odd;                      \
    }                                                                          \
  }
      EXAMPLES(BODY, { WEIGHTS dw[p->slot[k] * LANES] += out[e] * *AT(x, (long)p->base[q] + p->offset[k]); })
#undef BODY
    }
  }
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
#undef AT
#undef WEIGHTS
#undef EXAMPLES
#undef BYTES_PER_BLOCK

#endif
