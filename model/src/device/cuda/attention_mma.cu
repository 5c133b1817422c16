// The same attention on tensor cores, in bf16 with fp32 sums: a block a tile of 64 rows and a head, in the manner of
// FlashAttention-2. Scores are never stored; the backward computes them again, once for dQ and once for dK and dV, so that
// every sum has one order. HEAD_DIM: a multiple of 8, at most 128.
//
// Rows and columns of a tile's keys (or queries) are counted through its two ranges, the first then the second.

constexpr int HP = (HEAD_DIM + 15) / 16 * 16;
// Rows in shared memory are 16 bytes longer than they need: eight of them lie in different banks.
constexpr int LD = HP + 8;
constexpr int TILE = 64;
// Columns of the other side that the backward takes at a time.
constexpr int STEP = 32;
constexpr int THREADS = 128;
constexpr float LOG2E = 1.4426950408889634f;

struct Tile {
    // First row of the tile and how many (at most 64).
    int row, rows;
    // First rows and lengths of the other side's two ranges.
    int first_a, len_a, first_b, len_b;
    // Column that the tile's first row sees last (a query tile), or the first column that sees the first key (a key tile).
    int diagonal;
    int unused;
};

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void ldmatrix(u32 *r, const bf16 *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}
__device__ __forceinline__ void ldmatrix_t(u32 *r, const bf16 *p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}
__device__ __forceinline__ void mma(float *c, const u32 *a, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ u32 pack2(float lo, float hi) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Row of a column of the tile's other side.
__device__ __forceinline__ int row_of(const Tile &t, int column) {
    return column < t.len_a ? t.first_a + column : t.first_b + (column - t.len_a);
}

// COUNT rows of one head into shared memory; what is beyond `valid` rows or HEAD_DIM becomes 0. Ended by `wait`.
template <int COUNT, class Row>
__device__ __forceinline__ void fetch(bf16 *to, const bf16 *from, int stride, int valid, Row row) {
    constexpr int CHUNKS = HP / 8;
    for (int c = threadIdx.x; c < COUNT * CHUNKS; c += THREADS) {
        int line = c / CHUNKS, col = c % CHUNKS * 8;
        bool real = line < valid && col < HEAD_DIM;
        const bf16 *source = real ? from + (u64)row(line) * stride + col : from;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     ::"r"(shared_address(to + line * LD + col)), "l"(source), "r"(real ? 16 : 0) : "memory");
    }
}

// Where a lane's ldmatrix address is: a 16x16 factor of rows as A; 16 rows of [n][k] as B; 16 rows of [k][n] as B.
__device__ __forceinline__ int at_a(int lane) { return (lane & 15) * LD + (lane >> 4) * 8; }
__device__ __forceinline__ int at_b(int lane) { return ((lane & 7) + (lane >> 4) * 8) * LD + ((lane >> 3) & 1) * 8; }
__device__ __forceinline__ int at_bt(int lane) { return ((lane & 7) + ((lane >> 3) & 1) * 8) * LD + (lane >> 4) * 8; }

// c[16 x 8 N] = a [16 x HP] b^T, both from shared memory.
template <int N> __device__ __forceinline__ void scores(float (*c)[4], const bf16 *a, const bf16 *b, int lane) {
    for (int n = 0; n < N; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < HP; k += 16) {
        u32 left[4];
        ldmatrix(left, a + at_a(lane) + k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 right[4];
            ldmatrix(right, b + n * 8 * LD + at_b(lane) + k);
            mma(c[n], left, right[0], right[1]);
            mma(c[n + 1], left, right[2], right[3]);
        }
    }
}

// c[16 x HP] += p [16 x 8 N] b, p in registers as a product left it, b rows [8 N][HP] in shared memory.
template <int N> __device__ __forceinline__ void mix(float (*c)[4], float (*p)[4], const bf16 *b, int lane) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        u32 left[4] = {pack2(p[n][0], p[n][1]), pack2(p[n][2], p[n][3]), pack2(p[n + 1][0], p[n + 1][1]),
                       pack2(p[n + 1][2], p[n + 1][3])};
#pragma unroll
        for (int d = 0; d < HP / 8; d += 2) {
            u32 right[4];
            ldmatrix_t(right, b + n * 8 * LD + at_bt(lane) + d * 8);
            mma(c[d], left, right[0], right[1]);
            mma(c[d + 1], left, right[2], right[3]);
        }
    }
}

// The warp's 16 rows of a result, `valid` of the tile's.
__device__ __forceinline__ void write_rows(bf16 *to, int stride, float (*c)[4], int warp, int lane, int valid, float lo, float hi) {
    int g = warp * 16 + (lane >> 2);
#pragma unroll
    for (int d = 0; d < HP / 8; d++) {
        int col = d * 8 + (lane & 3) * 2;
        if (col >= HEAD_DIM) continue;
        if (g < valid) *(u32 *)(to + (u64)g * stride + col) = pack2(c[d][0] * lo, c[d][1] * lo);
        if (g + 8 < valid) *(u32 *)(to + (u64)(g + 8) * stride + col) = pack2(c[d][2] * hi, c[d][3] * hi);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    flash(const bf16 *qk, const bf16 *qkv, const Tile *tiles, float scale, bf16 *out, float *lse, int rows) {
    extern __shared__ __align__(16) bf16 shared[];
    bf16 *sq = shared, *sk = sq + TILE * LD, *sv = sk + TILE * LD;
    Tile t = tiles[blockIdx.y];
    int head = blockIdx.x, kv = head / GROUP, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const bf16 *keys = qk + Q_DIM + kv * HEAD_DIM, *values = qkv + QK_DIM + kv * HEAD_DIM;
    int total = t.len_a + t.len_b;
    auto of = [&](int column0) { return [=](int line) { return row_of(t, column0 + line); }; };
    fetch<TILE>(sq, qk + head * HEAD_DIM, QK_DIM, t.rows, [=](int line) { return t.row + line; });
    fetch<TILE>(sk, keys, QK_DIM, total, of(0));
    commit();
    float s2 = scale * LOG2E, acc[HP / 8][4];
    float max[2] = {-1e30f, -1e30f}, sum[2] = {0.0f, 0.0f};
    for (int d = 0; d < HP / 8; d++) acc[d][0] = acc[d][1] = acc[d][2] = acc[d][3] = 0.0f;
    int mine = warp * 16 + (lane >> 2);
    for (int j = 0; j < total; j += TILE) {
        wait<0>();
        __syncthreads();
        fetch<TILE>(sv, values, QKV_DIM, total - j, of(j));
        commit();
        float p[TILE / 8][4];
        scores<TILE / 8>(p, sq + warp * 16 * LD, sk, lane);
        wait<0>();
        __syncthreads();
        if (j + TILE < total) fetch<TILE>(sk, keys, QK_DIM, total - j - TILE, of(j + TILE));
        commit();
        // What a row sees last is its own key: hidden columns are only in the last two steps.
        if (j + TILE - 1 > t.diagonal) {
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
                for (int e = 0; e < 4; e++) {
                    int column = j + n * 8 + (lane & 3) * 2 + (e & 1);
                    if (column > t.diagonal + mine + (e >> 1) * 8) p[n][e] = -1e30f;
                }
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = max[half];
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) top = fmaxf(top, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            float old = exp2_fast((max[half] - top) * s2), shift = top * s2, more = 0.0f;
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    p[n][e] = exp2_fast(p[n][e] * s2 - shift);
                    more += p[n][e];
                }
            }
            sum[half] = sum[half] * old + more;
            max[half] = top;
#pragma unroll
            for (int d = 0; d < HP / 8; d++) {
                acc[d][2 * half] *= old;
                acc[d][2 * half + 1] *= old;
            }
        }
        mix<TILE / 8>(acc, p, sv, lane);
    }
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        int row = mine + half * 8;
        if ((lane & 3) == 0 && row < t.rows)
            lse[(u64)head * rows + t.row + row] = max[half] * scale + logf(sum[half]);
    }
    write_rows(out + (u64)t.row * Q_DIM + head * HEAD_DIM, Q_DIM, acc, warp, lane, t.rows, 1.0f / sum[0], 1.0f / sum[1]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    flash_dq(const bf16 *qk, const bf16 *qkv, const bf16 *d_out, const Tile *tiles, float scale, const float *lse,
             const float *delta, bf16 *d_qkv, int rows) {
    extern __shared__ __align__(16) bf16 shared[];
    bf16 *sq = shared, *sd = sq + TILE * LD, *sk = sd + TILE * LD, *sv = sk + 2 * STEP * LD;
    Tile t = tiles[blockIdx.y];
    int head = blockIdx.x, kv = head / GROUP, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const bf16 *keys = qk + Q_DIM + kv * HEAD_DIM, *values = qkv + QK_DIM + kv * HEAD_DIM;
    int total = t.len_a + t.len_b;
    auto bring = [&](int stage, int j) {
        auto of = [=](int line) { return row_of(t, j + line); };
        fetch<STEP>(sk + stage * STEP * LD, keys, QK_DIM, total - j, of);
        fetch<STEP>(sv + stage * STEP * LD, values, QKV_DIM, total - j, of);
    };
    auto own = [=](int line) { return t.row + line; };
    fetch<TILE>(sq, qk + head * HEAD_DIM, QK_DIM, t.rows, own);
    fetch<TILE>(sd, d_out + head * HEAD_DIM, Q_DIM, t.rows, own);
    bring(0, 0);
    commit();
    int mine = warp * 16 + (lane >> 2);
    float s2 = scale * LOG2E, shift[2], mean[2], acc[HP / 8][4];
    for (int half = 0; half < 2; half++) {
        int row = mine + half * 8;
        bool real = row < t.rows;
        shift[half] = real ? lse[(u64)head * rows + t.row + row] * LOG2E : 1e30f;
        mean[half] = real ? delta[(u64)head * rows + t.row + row] : 0.0f;
    }
    for (int d = 0; d < HP / 8; d++) acc[d][0] = acc[d][1] = acc[d][2] = acc[d][3] = 0.0f;
    int stage = 0;
    for (int j = 0; j < total; j += STEP, stage ^= 1) {
        if (j + STEP < total) bring(stage ^ 1, j + STEP);
        commit();
        wait<1>();
        __syncthreads();
        const bf16 *k = sk + stage * STEP * LD, *v = sv + stage * STEP * LD;
        float p[STEP / 8][4], dp[STEP / 8][4];
        scores<STEP / 8>(p, sq + warp * 16 * LD, k, lane);
        scores<STEP / 8>(dp, sd + warp * 16 * LD, v, lane);
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) {
            for (int e = 0; e < 4; e++) {
                int column = j + n * 8 + (lane & 3) * 2 + (e & 1), half = e >> 1;
                float q = column > t.diagonal + mine + half * 8 ? 0.0f : exp2_fast(p[n][e] * s2 - shift[half]);
                p[n][e] = q * (dp[n][e] - mean[half]);
            }
        }
        mix<STEP / 8>(acc, p, k, lane);
        __syncthreads();
    }
    write_rows(d_qkv + (u64)t.row * QKV_DIM + head * HEAD_DIM, QKV_DIM, acc, warp, lane, t.rows, scale, scale);
}

// A block a tile of keys and a key head; over all query heads that share it.
extern "C" __global__ void __launch_bounds__(THREADS)
    flash_dkv(const bf16 *qk, const bf16 *qkv, const bf16 *d_out, const Tile *tiles, float scale, const float *lse,
              const float *delta, bf16 *d_qkv, int rows) {
    extern __shared__ __align__(16) bf16 shared[];
    bf16 *sk = shared, *sv = sk + TILE * LD, *sq = sv + TILE * LD, *sd = sq + 2 * STEP * LD;
    __shared__ float shifts[2][STEP], means[2][STEP];
    Tile t = tiles[blockIdx.y];
    int kv = blockIdx.x, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int total = t.len_a + t.len_b, steps = (total + STEP - 1) / STEP;
    auto bring = [&](int stage, int n) {
        int head = kv * GROUP + n / steps, j = n % steps * STEP;
        auto of = [=](int line) { return row_of(t, j + line); };
        fetch<STEP>(sq + stage * STEP * LD, qk + head * HEAD_DIM, QK_DIM, total - j, of);
        fetch<STEP>(sd + stage * STEP * LD, d_out + head * HEAD_DIM, Q_DIM, total - j, of);
        if (threadIdx.x < STEP) {
            bool real = j + threadIdx.x < total;
            u64 at = (u64)head * rows + (real ? row_of(t, j + threadIdx.x) : 0);
            shifts[stage][threadIdx.x] = real ? lse[at] * LOG2E : 1e30f;
            means[stage][threadIdx.x] = real ? delta[at] : 0.0f;
        }
    };
    auto own = [=](int line) { return t.row + line; };
    fetch<TILE>(sk, qk + Q_DIM + kv * HEAD_DIM, QK_DIM, t.rows, own);
    fetch<TILE>(sv, qkv + QK_DIM + kv * HEAD_DIM, QKV_DIM, t.rows, own);
    bring(0, 0);
    commit();
    int mine = warp * 16 + (lane >> 2);
    float s2 = scale * LOG2E, dk[HP / 8][4], dv[HP / 8][4];
    for (int d = 0; d < HP / 8; d++) {
        dk[d][0] = dk[d][1] = dk[d][2] = dk[d][3] = 0.0f;
        dv[d][0] = dv[d][1] = dv[d][2] = dv[d][3] = 0.0f;
    }
    for (int n = 0; n < GROUP * steps; n++) {
        int stage = n & 1, j = n % steps * STEP;
        if (n + 1 < GROUP * steps) bring(stage ^ 1, n + 1);
        commit();
        wait<1>();
        __syncthreads();
        const bf16 *q = sq + stage * STEP * LD, *d = sd + stage * STEP * LD;
        // Transposed: rows are keys, columns queries.
        float p[STEP / 8][4], dp[STEP / 8][4];
        scores<STEP / 8>(p, sk + warp * 16 * LD, q, lane);
        scores<STEP / 8>(dp, sv + warp * 16 * LD, d, lane);
#pragma unroll
        for (int c = 0; c < STEP / 8; c++) {
            for (int e = 0; e < 4; e++) {
                int line = c * 8 + (lane & 3) * 2 + (e & 1);
                bool hidden = j + line < t.diagonal + mine + (e >> 1) * 8;
                p[c][e] = hidden ? 0.0f : exp2_fast(p[c][e] * s2 - shifts[stage][line]);
                dp[c][e] = p[c][e] * (dp[c][e] - means[stage][line]);
            }
        }
        mix<STEP / 8>(dv, p, d, lane);
        mix<STEP / 8>(dk, dp, q, lane);
        __syncthreads();
    }
    bf16 *to = d_qkv + (u64)t.row * QKV_DIM + Q_DIM + kv * HEAD_DIM;
    write_rows(to, QKV_DIM, dk, warp, lane, t.rows, scale, scale);
    write_rows(to + KV_DIM, QKV_DIM, dv, warp, lane, t.rows, 1.0f, 1.0f);
}
