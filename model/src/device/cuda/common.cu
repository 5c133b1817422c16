// What all kernels share. Compiled at run time with these defines, which make every size a constant:
// BF16 (1: elements are bf16, 0: fp32), HIDDEN, FF, HEADS, KV_HEADS, HEAD_DIM, VOCAB, QK_NORM (0 or 1).
// No header is included: the compiler's library comes without them.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct bf16 { u16 bits; };
struct __align__(8) bf16x4 { bf16 v[4]; };

#if BF16
typedef bf16 T;
typedef bf16x4 T4;
#else
typedef float T;
typedef float4 T4;
#endif

constexpr int Q_DIM = HEADS * HEAD_DIM;
constexpr int KV_DIM = KV_HEADS * HEAD_DIM;
constexpr int QK_DIM = Q_DIM + KV_DIM;
constexpr int QKV_DIM = QK_DIM + KV_DIM;
constexpr int GROUP = HEADS / KV_HEADS;
constexpr int HALF = HEAD_DIM / 2;

__device__ __forceinline__ float get(float x) { return x; }
__device__ __forceinline__ float get(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ void put(float *to, float x) { *to = x; }
__device__ __forceinline__ void put(bf16 *to, float x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    to->bits = bits;
}

// In fp32 to the last places, in bf16 fast.
__device__ __forceinline__ float exp_of(float x) { return BF16 ? __expf(x) : expf(x); }

// N neighbours at once, N = 4 (aligned) or 1.
template <int N> struct Pack { float v[N]; };
__device__ __forceinline__ Pack<4> take(const float *p, Pack<4> *) {
    float4 x = *(const float4 *)p;
    return {{x.x, x.y, x.z, x.w}};
}
__device__ __forceinline__ Pack<4> take(const bf16 *p, Pack<4> *) {
    bf16x4 x = *(const bf16x4 *)p;
    return {{get(x.v[0]), get(x.v[1]), get(x.v[2]), get(x.v[3])}};
}
template <class E> __device__ __forceinline__ Pack<1> take(const E *p, Pack<1> *) { return {{get(*p)}}; }
template <int N, class E> __device__ __forceinline__ Pack<N> load(const E *p) { return take(p, (Pack<N> *)0); }
__device__ __forceinline__ void store(float *p, const Pack<4> &x) {
    *(float4 *)p = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
}
__device__ __forceinline__ void store(bf16 *p, const Pack<4> &x) {
    bf16x4 y;
    for (int i = 0; i < 4; i++) put(&y.v[i], x.v[i]);
    *(bf16x4 *)p = y;
}
template <class E> __device__ __forceinline__ void store(E *p, const Pack<1> &x) { put(p, x.v[0]); }

__device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// The sum over the block, in every thread. `scratch`: 33 floats. Always the same order.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = (blockDim.x + 31) >> 5;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    if (warp == 0) {
        float y = lane < warps ? scratch[lane] : 0.0f;
        y = warp_sum(y);
        if (lane == 0) scratch[32] = y;
    }
    __syncthreads();
    return scratch[32];
}
