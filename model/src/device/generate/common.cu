// What all kernels of generation share; it is put before each of them.
//
// Compiled at run time for one network: HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FF, VOCAB, EPS, MAX_BLOCKS (of one sequence),
// BLOCK_TOKENS, SPLIT, LINES, TOGETHER and BF16 (0: single precision) are macros (`decoder.rs`). Every row is computed from
// itself alone and in a fixed order, so a result does not depend on the rows beside it. Products leave single precision;
// their factors (`elem`) are rounded once.

#if BF16
typedef unsigned short elem;
__device__ __forceinline__ float to_float(elem x) { return __uint_as_float((unsigned)x << 16); }
__device__ __forceinline__ elem to_elem(float x) {
    elem y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
#else
typedef float elem;
__device__ __forceinline__ float to_float(elem x) { return x; }
__device__ __forceinline__ elem to_elem(float x) { return x; }
#endif

#define GROUP (HEADS / KV_HEADS)
#define QKV ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
#define HALF (HEAD_DIM / 2)
#define WARP 32
#define FULL 0xffffffffu
#define NOTHING __uint_as_float(0xff800000u)  // minus infinity
typedef unsigned long long u64;

// As `Row` in `rows.rs`.
struct Row {
    int token;
    int position;  // -1: no row
    int table;     // line of the block table
    int top_k;
    float temperature;
    float top_p;
    float min_p;
    int unused;
    u64 uniform;  // 53 bits
};

// As `Tile` in `rows.rs`: neighbouring rows of one prompt.
struct Tile {
    int row;
    int count;
    int position;
    int table;
};

// ---- heads in vectors of up to 16 bytes, one vector a lane ----
#define MAX_VECTOR (16 / (int)sizeof(elem))
#define VECTOR                                                       \
    (HEAD_DIM % 8 == 0 && MAX_VECTOR >= 8 ? 8 : HEAD_DIM % 4 == 0 ? 4 : 2)
#define VECTORS (HEAD_DIM / VECTOR)
#define LANES (VECTORS > 16 ? 32 : VECTORS > 8 ? 16 : VECTORS > 4 ? 8 : VECTORS > 2 ? 4 : VECTORS > 1 ? 2 : 1)
#define PIECES ((VECTORS + LANES - 1) / LANES)

struct alignas(sizeof(elem) * VECTOR) Vector {
    elem x[VECTOR];
};

// Offset of position `at` of key head `head` within one layer's arena: [block, head, token, dim].
__device__ __forceinline__ size_t cache_at(int block, int head, int token) {
    return (((size_t)block * KV_HEADS + head) * BLOCK_TOKENS + token) * HEAD_DIM;
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(FULL, x, d);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, d));
    return x;
}

// Query heads of one key head that one block takes together; the others are its neighbours' parts.
#define PARTS (GROUP / TOGETHER)
