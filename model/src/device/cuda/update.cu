// What is done to whole tensors: elements from fp32 weights, the gradients' norm, AdamW. Many tensors a launch: a table of pieces.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// A run of at most PIECE elements of one tensor.
struct Piece {
    u64 a, b, c, d; // addresses: what they are is the kernel's
    u64 e, f, g;    // where AdamW writes: weights, first and second moments
    int count;
    float decay;    // AdamW: 1 - lr * weight decay
};

// to (bf16) = from (fp32), by all threads of a block.
__device__ __forceinline__ void round_run(const float *from, u16 *to, int count) {
    int whole = count / 4 * 4;
    for (int i = threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
        float4 x = *(const float4 *)(from + i);
        u32 lo, hi;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(lo) : "f"(x.y), "f"(x.x));
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(hi) : "f"(x.w), "f"(x.z));
        *(uint2 *)(to + i) = make_uint2(lo, hi);
    }
    for (int i = whole + threadIdx.x; i < count; i += blockDim.x) {
        u16 y;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(from[i]));
        to[i] = y;
    }
}

// b (bf16) = a (fp32)
extern "C" __global__ void to_bf16(const Piece *pieces) {
    Piece p = pieces[blockIdx.x];
    round_run((const float *)p.a, (u16 *)p.b, p.count);
}

// The same for one tensor, without a table; a block takes `piece` elements.
extern "C" __global__ void round_one(const float *from, u16 *to, long long count, int piece) {
    long long first = (long long)blockIdx.x * piece;
    long long left = count - first;
    round_run(from + first, to + first, left < piece ? (int)left : piece);
}

// partial[piece] = sum of a^2, in double precision across a block's threads.
extern "C" __global__ void squares(const Piece *pieces, double *partial) {
    __shared__ double scratch[32];
    Piece p = pieces[blockIdx.x];
    const float *from = (const float *)p.a;
    // Four sums a thread: short ones, so that single precision is enough within them.
    double sum = 0.0;
    int whole = p.count / 4 * 4;
    for (int i = threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
        float4 x = *(const float4 *)(from + i);
        sum += (double)x.x * x.x + (double)x.y * x.y + ((double)x.z * x.z + (double)x.w * x.w);
    }
    for (int i = whole + threadIdx.x; i < p.count; i += blockDim.x) sum += (double)from[i] * from[i];
    for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < (int)(blockDim.x >> 5); w++) sum += scratch[w];
        partial[blockIdx.x] = sum;
    }
}

// One element of AdamW, in the order of operations of burn's.
__device__ __forceinline__ void adamw_one(float w, float m, float v, float g, float *w_out, float *m_out, float *v_out,
                                          float decay, float lr, float beta1, float beta2, float c1, float c2, float eps,
                                          float scale) {
    g *= scale;
    m = m * beta1 + g * (1.0f - beta1);
    v = v * beta2 + g * g * (1.0f - beta2);
    float step = (m / c1) / (sqrtf(v / c2) + eps);
    *w_out = w * decay - step * lr;
    *m_out = m;
    *v_out = v;
}

// a: weights, b, c: moments (0 where there are none yet), d: gradients; e, f, g: the new ones (may be the old).
extern "C" __global__ void adamw(const Piece *pieces, float lr, float beta1, float beta2, float c1, float c2, float eps,
                                 float scale) {
    Piece p = pieces[blockIdx.x];
    const float *w = (const float *)p.a, *m = (const float *)p.b, *v = (const float *)p.c, *g = (const float *)p.d;
    float *wo = (float *)p.e, *mo = (float *)p.f, *vo = (float *)p.g;
    int whole = p.count / 4 * 4;
    for (int i = threadIdx.x * 4; i < whole; i += blockDim.x * 4) {
        float4 w4 = *(const float4 *)(w + i), g4 = *(const float4 *)(g + i);
        float4 m4 = m ? *(const float4 *)(m + i) : make_float4(0, 0, 0, 0);
        float4 v4 = v ? *(const float4 *)(v + i) : make_float4(0, 0, 0, 0);
        adamw_one(w4.x, m4.x, v4.x, g4.x, &w4.x, &m4.x, &v4.x, p.decay, lr, beta1, beta2, c1, c2, eps, scale);
        adamw_one(w4.y, m4.y, v4.y, g4.y, &w4.y, &m4.y, &v4.y, p.decay, lr, beta1, beta2, c1, c2, eps, scale);
        adamw_one(w4.z, m4.z, v4.z, g4.z, &w4.z, &m4.z, &v4.z, p.decay, lr, beta1, beta2, c1, c2, eps, scale);
        adamw_one(w4.w, m4.w, v4.w, g4.w, &w4.w, &m4.w, &v4.w, p.decay, lr, beta1, beta2, c1, c2, eps, scale);
        *(float4 *)(wo + i) = w4;
        *(float4 *)(mo + i) = m4;
        *(float4 *)(vo + i) = v4;
    }
    for (int i = whole + threadIdx.x; i < p.count; i += blockDim.x)
        adamw_one(w[i], m ? m[i] : 0.0f, v ? v[i] : 0.0f, g[i], wo + i, mo + i, vo + i, p.decay, lr, beta1, beta2, c1, c2, eps,
                  scale);
}
