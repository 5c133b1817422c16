// Attention of a prompt's rows: a tile of rows times the heads of one key head, over tiles of 32 keys.

#define KEYS 32
#define TILE_ROWS (LINES / TOGETHER)
#define PADDED ((HEAD_DIM + 3) / 4 * 4)
#define STRIDE (PADDED + 4)
#define CHUNKS ((PADDED + 63) / 64)

__device__ __forceinline__ void load_tile(float (*to)[STRIDE], const elem* from, const int* table, int kv, int begin, int count) {
    for (int n = threadIdx.x; n < KEYS * VECTORS; n += 128) {
        const int t = n / VECTORS, v = n % VECTORS, at = begin + t;
        Vector x;
        if (at < count) x = ((const Vector*)(from + cache_at(table[at / BLOCK_TOKENS], kv, at % BLOCK_TOKENS)))[v];
#pragma unroll
        for (int i = 0; i < VECTOR; ++i) to[t][v * VECTOR + i] = at < count ? to_float(x.x[i]) : 0.0f;
    }
}

// Grid (tiles, KV_HEADS * PARTS), 128 threads, dynamic shared memory for two tiles.
extern "C" __global__ void __launch_bounds__(128)
    prompt_attention(const Tile* tiles, const elem* q, const elem* keys, const elem* values, const int* tables, elem* out) {
    extern __shared__ float4 memory[];
    float(*queries)[STRIDE] = (float(*)[STRIDE])memory;
    float(*tile)[STRIDE] = queries + LINES;
    __shared__ float scores[LINES][KEYS + 1];
    __shared__ float tops[LINES], sums[LINES], shrink[LINES];
    const Tile job = tiles[blockIdx.x];
    const int kv = blockIdx.y / PARTS, first_head = kv * GROUP + blockIdx.y % PARTS * TOGETHER;
    const int* table = tables + (size_t)job.table * MAX_BLOCKS;
    const float scale = rsqrtf((float)HEAD_DIM);
    for (int n = threadIdx.x; n < LINES * STRIDE; n += 128) {
        const int line = n / STRIDE, i = n % STRIDE, row = line / TOGETHER, head = first_head + line % TOGETHER;
        const bool real = row < job.count && row < TILE_ROWS && i < HEAD_DIM;
        queries[line][i] = real ? to_float(q[((size_t)(job.row + row) * HEADS + head) * HEAD_DIM + i]) * scale : 0.0f;
        tile[line][i] = 0.0f;
    }
    if (threadIdx.x < LINES) {
        tops[threadIdx.x] = NOTHING;
        sums[threadIdx.x] = 0.0f;
    }
    const int upper = threadIdx.x / 16 * 4, low = threadIdx.x % 16;
    float mixed[4][CHUNKS][4];
#pragma unroll
    for (int l = 0; l < 4; ++l)
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i) mixed[l][c][i] = 0.0f;
    const int seen = job.position + job.count;
    for (int begin = 0; begin < seen; begin += KEYS) {
        __syncthreads();
        load_tile(tile, keys, table, kv, begin, seen);
        __syncthreads();
        float dot[4][2] = {};
#pragma unroll 4
        for (int i = 0; i < PADDED; i += 4) {
            const float4 k0 = *(const float4*)&tile[low][i], k1 = *(const float4*)&tile[low + 16][i];
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                const float4 x = *(const float4*)&queries[upper + l][i];
                dot[l][0] += x.x * k0.x + x.y * k0.y + x.z * k0.z + x.w * k0.w;
                dot[l][1] += x.x * k1.x + x.y * k1.y + x.z * k1.z + x.w * k1.w;
            }
        }
#pragma unroll
        for (int l = 0; l < 4; ++l) {
            const int at = job.position + (upper + l) / TOGETHER;
            scores[upper + l][low] = begin + low <= at ? dot[l][0] : NOTHING;
            scores[upper + l][low + 16] = begin + low + 16 <= at ? dot[l][1] : NOTHING;
        }
        __syncthreads();
        load_tile(tile, values, table, kv, begin, seen);
        {
            // Four threads a line, eight keys each. The first tile has a key that every line sees.
            const int line = threadIdx.x / 4, part = threadIdx.x % 4;
            float top = tops[line];
            const float before = top;
            for (int t = part; t < KEYS; t += 4) top = fmaxf(top, scores[line][t]);
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 1));
            top = fmaxf(top, __shfl_xor_sync(FULL, top, 2));
            float sum = 0.0f;
            for (int t = part; t < KEYS; t += 4) {
                const float e = expf(scores[line][t] - top);
                scores[line][t] = e;
                sum += e;
            }
            sum += __shfl_xor_sync(FULL, sum, 1);
            sum += __shfl_xor_sync(FULL, sum, 2);
            if (part == 0) {
                const float factor = expf(before - top);
                shrink[line] = factor;
                sums[line] = sums[line] * factor + sum;
                tops[line] = top;
            }
        }
        __syncthreads();
        float factor[4];
#pragma unroll
        for (int l = 0; l < 4; ++l) factor[l] = shrink[upper + l];
#pragma unroll
        for (int l = 0; l < 4; ++l)
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
                for (int i = 0; i < 4; ++i) mixed[l][c][i] *= factor[l];
#pragma unroll 2
        for (int t = 0; t < KEYS; ++t) {
#pragma unroll
            for (int c = 0; c < CHUNKS; ++c) {
                const int i = low * 4 + c * 64;
                if (i >= PADDED) continue;
                const float4 v = *(const float4*)&tile[t][i];
#pragma unroll
                for (int l = 0; l < 4; ++l) {
                    const float p = scores[upper + l][t];
                    mixed[l][c][0] += p * v.x;
                    mixed[l][c][1] += p * v.y;
                    mixed[l][c][2] += p * v.z;
                    mixed[l][c][3] += p * v.w;
                }
            }
        }
    }
    for (int l = 0; l < 4; ++l) {
        const int line = upper + l, row = line / TOGETHER, head = first_head + line % TOGETHER;
        if (row >= job.count || row >= TILE_ROWS) continue;
        elem* to = out + ((size_t)(job.row + row) * HEADS + head) * HEAD_DIM;
#pragma unroll
        for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = low * 4 + c * 64 + i;
                if (at < HEAD_DIM) to[at] = to_elem(mixed[l][c][i] / sums[line]);
            }
    }
}
