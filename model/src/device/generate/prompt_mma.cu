// The same attention on tensor cores: 64 rows of one head a block, keys and values read through the block table, in the manner
// of FlashAttention-2. bf16, HEAD_DIM a multiple of 8 and at most 128. A row's sums run over keys from the first on, 64 at a
// time, whatever tile it is in.

#define WIDTH ((HEAD_DIM + 15) / 16 * 16)
// Rows in shared memory are 16 bytes longer than they need: eight of them lie in different banks.
#define PITCH (WIDTH + 8)
#define STEP 64
#define FAR -1e30f

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void load_factor(unsigned* r, const elem* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}

__device__ __forceinline__ void load_transposed(unsigned* r, const elem* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}

__device__ __forceinline__ void multiply(float* c, const unsigned* a, unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned both(float low, float high) {
    unsigned r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void await_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// STEP rows into shared memory, `from(line)` each; what is beyond `valid` rows or HEAD_DIM becomes 0. Not yet there on return.
template <class From>
__device__ __forceinline__ void fetch(elem* to, int valid, From from) {
    for (int n = threadIdx.x; n < STEP * (WIDTH / 8); n += 128) {
        const int line = n / (WIDTH / 8), column = n % (WIDTH / 8) * 8;
        const bool real = line < valid && column < HEAD_DIM;
        const elem* source = from(real ? line : 0) + (real ? column : 0);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     ::"r"(shared_address(to + line * PITCH + column)), "l"(source), "r"(real ? 16 : 0) : "memory");
    }
    close_copies();
}

// Grid (tiles, HEADS), 128 threads, dynamic shared memory for three times 64 rows.
extern "C" __global__ void __launch_bounds__(128)
    prompt_attention_mma(const Tile* tiles, const elem* q, const elem* keys, const elem* values, const int* tables, elem* out) {
    extern __shared__ __align__(16) elem memory[];
    elem *queries = memory, *some_keys = queries + STEP * PITCH, *some_values = some_keys + STEP * PITCH;
    const Tile job = tiles[blockIdx.x];
    const int head = blockIdx.y, kv = head / GROUP, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int* table = tables + (size_t)job.table * MAX_BLOCKS;
    const int seen = job.position + job.count;
    const auto cached = [&](const elem* arena, int begin) {
        return [=](int line) {
            const int at = begin + line;
            return arena + cache_at(table[at / BLOCK_TOKENS], kv, at % BLOCK_TOKENS);
        };
    };
    fetch(queries, job.count, [&](int line) { return q + ((size_t)(job.row + line) * HEADS + head) * HEAD_DIM; });
    fetch(some_keys, seen, cached(keys, 0));
    // Where a lane reads a 16x16 factor: rows as A; rows of [n][k] as B; rows of [k][n] as B.
    const elem* as_a = queries + (warp * 16 + (lane & 15)) * PITCH + (lane >> 4) * 8;
    const elem* as_b = some_keys + ((lane & 7) + (lane >> 4) * 8) * PITCH + ((lane >> 3) & 1) * 8;
    const elem* as_bt = some_values + ((lane & 7) + ((lane >> 3) & 1) * 8) * PITCH + (lane >> 4) * 8;
    const float scale = rsqrtf((float)HEAD_DIM);
    const int mine = job.position + warp * 16 + (lane >> 2);
    float mixed[WIDTH / 8][4], top[2] = {FAR, FAR}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int d = 0; d < WIDTH / 8; ++d) mixed[d][0] = mixed[d][1] = mixed[d][2] = mixed[d][3] = 0.0f;
    for (int begin = 0; begin < seen; begin += STEP) {
        await_copies();
        __syncthreads();
        fetch(some_values, seen - begin, cached(values, begin));
        float p[STEP / 8][4];
#pragma unroll
        for (int n = 0; n < STEP / 8; ++n) p[n][0] = p[n][1] = p[n][2] = p[n][3] = 0.0f;
#pragma unroll
        for (int k = 0; k < WIDTH; k += 16) {
            unsigned left[4];
            load_factor(left, as_a + k);
#pragma unroll
            for (int n = 0; n < STEP / 8; n += 2) {
                unsigned right[4];
                load_factor(right, as_b + n * 8 * PITCH + k);
                multiply(p[n], left, right[0], right[1]);
                multiply(p[n + 1], left, right[2], right[3]);
            }
        }
        await_copies();
        __syncthreads();
        if (begin + STEP < seen) fetch(some_keys, seen - begin - STEP, cached(keys, begin + STEP));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float most = top[half], more = 0.0f;
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; ++e) {
                    const int at = begin + n * 8 + (lane & 3) * 2 + (e & 1);
                    p[n][e] = at <= mine + half * 8 ? p[n][e] * scale : FAR;
                    most = fmaxf(most, p[n][e]);
                }
            most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
            most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
            const float shrink = __expf(top[half] - most);
#pragma unroll
            for (int n = 0; n < STEP / 8; ++n)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; ++e) {
                    p[n][e] = __expf(p[n][e] - most);
                    more += p[n][e];
                }
            sum[half] = sum[half] * shrink + more;
            top[half] = most;
#pragma unroll
            for (int d = 0; d < WIDTH / 8; ++d) {
                mixed[d][2 * half] *= shrink;
                mixed[d][2 * half + 1] *= shrink;
            }
        }
#pragma unroll
        for (int n = 0; n < STEP / 8; n += 2) {
            const unsigned left[4] = {both(p[n][0], p[n][1]), both(p[n][2], p[n][3]), both(p[n + 1][0], p[n + 1][1]),
                                      both(p[n + 1][2], p[n + 1][3])};
#pragma unroll
            for (int d = 0; d < WIDTH / 8; d += 2) {
                unsigned right[4];
                load_transposed(right, as_bt + n * 8 * PITCH + d * 8);
                multiply(mixed[d], left, right[0], right[1]);
                multiply(mixed[d + 1], left, right[2], right[3]);
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        sum[half] += __shfl_xor_sync(FULL, sum[half], 1);
        sum[half] += __shfl_xor_sync(FULL, sum[half], 2);
        const int line = warp * 16 + (lane >> 2) + half * 8;
        if (line >= job.count) continue;
        unsigned* to = (unsigned*)(out + ((size_t)(job.row + line) * HEADS + head) * HEAD_DIM);
#pragma unroll
        for (int d = 0; d < WIDTH / 8; ++d) {
            const int column = d * 8 + (lane & 3) * 2;
            if (column < HEAD_DIM) to[column / 2] = both(mixed[d][2 * half] / sum[half], mixed[d][2 * half + 1] / sum[half]);
        }
    }
}
