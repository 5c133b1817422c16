// Everything of a decoding step and of a prefill but the products, the prompt's attention and the sampler.

// Parameters as burn keeps them to what products read (`factor`), or as they are. Four elements a thread where they divide.
extern "C" __global__ void take_parameter(const float* from, void* to, long long count, int factor) {
    const long long step = (long long)gridDim.x * blockDim.x, first = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (!factor) {
        for (long long i = first; i < count; i += step) ((float*)to)[i] = from[i];
    } else if (count % 4 == 0) {
        struct alignas(4 * sizeof(elem)) Four {
            elem x[4];
        };
        for (long long i = first; i < count / 4; i += step) {
            const float4 x = ((const float4*)from)[i];
            ((Four*)to)[i] = Four{{to_elem(x.x), to_elem(x.y), to_elem(x.z), to_elem(x.w)}};
        }
    } else {
        for (long long i = first; i < count; i += step) ((elem*)to)[i] = to_elem(from[i]);
    }
}

// x[row] = embed[token]. One block a row.
extern "C" __global__ void embed_rows(const Row* rows, const elem* embed, float* x) {
    const Row row = rows[blockIdx.x];
    float* out = x + (size_t)blockIdx.x * HIDDEN;
    const elem* in = embed + (size_t)(row.position < 0 ? 0 : row.token) * HIDDEN;
    for (int i = threadIdx.x; i < HIDDEN; i += blockDim.x) out[i] = row.position < 0 ? 0.0f : to_float(in[i]);
}

// x += bias (where there is one); normed = x / sqrt(mean(x^2) + eps) * weight. One block of 256 a row.
extern "C" __global__ void add_norm(float* x, const float* bias, const float* weight, elem* normed) {
    __shared__ float sums[8];
    float* row = x + (size_t)blockIdx.x * HIDDEN;
    elem* out = normed + (size_t)blockIdx.x * HIDDEN;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < HIDDEN; i += 256) {
        float value = row[i];
        if (bias) {
            value += bias[i];
            row[i] = value;
        }
        sum += value * value;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
    __syncthreads();
    float total = 0.0f;
    for (int w = 0; w < 8; ++w) total += sums[w];
    const float inv = 1.0f / sqrtf(total / HIDDEN + EPS);
    for (int i = threadIdx.x; i < HIDDEN; i += 256) out[i] = to_elem(row[i] * inv * weight[i]);
}

// Bias, norm of queries and keys, rotation; queries to `q`, keys and values to the cache. One warp a head, four a block;
// grid (rows, heads of all three / 4).
extern "C" __global__ void queries_keys_values(const Row* rows, const float* qkv, const float* bias, const float* q_norm,
                                               const float* k_norm, const float* cosines, const float* sines, elem* q,
                                               elem* keys, elem* values, const int* tables) {
    const Row row = rows[blockIdx.x];
    const int head = blockIdx.y * 4 + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (row.position < 0 || head >= HEADS + 2 * KV_HEADS) return;
    const float* in = qkv + (size_t)blockIdx.x * QKV + head * HEAD_DIM;
    const float* add = bias ? bias + head * HEAD_DIM : nullptr;
    const bool is_query = head < HEADS, is_value = head >= HEADS + KV_HEADS;
    constexpr int PAIRS = (HALF + WARP - 1) / WARP;
    float a[PAIRS], b[PAIRS], sum = 0.0f;
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
        const int i = lane + p * WARP;
        a[p] = i < HALF ? in[i] + (add ? add[i] : 0.0f) : 0.0f;
        b[p] = i < HALF ? in[i + HALF] + (add ? add[i + HALF] : 0.0f) : 0.0f;
        sum += a[p] * a[p] + b[p] * b[p];
    }
    const float* norm = is_query ? q_norm : is_value ? nullptr : k_norm;
    if (norm) {
        const float inv = 1.0f / sqrtf(warp_sum(sum) / HEAD_DIM + EPS);
#pragma unroll
        for (int p = 0; p < PAIRS; ++p) {
            const int i = lane + p * WARP;
            if (i < HALF) {
                a[p] *= inv * norm[i];
                b[p] *= inv * norm[i + HALF];
            }
        }
    }
    elem* out;
    if (is_query) {
        out = q + (size_t)blockIdx.x * HEADS * HEAD_DIM + head * HEAD_DIM;
    } else {
        const int block = tables[(size_t)row.table * MAX_BLOCKS + row.position / BLOCK_TOKENS];
        const int kv = is_value ? head - HEADS - KV_HEADS : head - HEADS;
        out = (is_value ? values : keys) + cache_at(block, kv, row.position % BLOCK_TOKENS);
    }
    const float* cosine = cosines + (size_t)row.position * HALF;
    const float* sine = sines + (size_t)row.position * HALF;
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
        const int i = lane + p * WARP;
        if (i >= HALF) continue;
        const float c = is_value ? 1.0f : cosine[i], s = is_value ? 0.0f : sine[i];
        out[i] = to_elem(a[p] * c - b[p] * s);
        out[i + HALF] = to_elem(b[p] * c + a[p] * s);
    }
}

// act = silu(gate) * up, rows [gate | up]. Grid (FF / 256, rows).
extern "C" __global__ void swiglu(const float* gate_up, const float* bias, elem* act) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= FF) return;
    const float* row = gate_up + (size_t)blockIdx.y * 2 * FF;
    const float g = row[i] + (bias ? bias[i] : 0.0f), u = row[FF + i] + (bias ? bias[FF + i] : 0.0f);
    act[(size_t)blockIdx.y * FF + i] = to_elem(g / (1.0f + expf(-g)) * u);
}

// Copies whole blocks, all layers: grid (layers, pairs); `arena` elements a layer.
extern "C" __global__ void copy_blocks(elem* keys, elem* values, const int2* pairs, unsigned long long arena) {
    const int2 pair = pairs[blockIdx.y];
    const size_t base = blockIdx.x * arena, size = (size_t)KV_HEADS * BLOCK_TOKENS * HEAD_DIM;
    const size_t from = base + pair.x * size, to = base + pair.y * size;
    for (size_t i = threadIdx.x; i < size; i += blockDim.x) {
        keys[to + i] = keys[from + i];
        values[to + i] = values[from + i];
    }
}

// ---- attention of one new token over its sequence's blocks ----
// The context is cut into pieces of SPLIT positions wherever the batch ends, so the order of the sums is a sequence's own.
#define SPLIT_BLOCKS (SPLIT / BLOCK_TOKENS)
#define TEAMS (128 / LANES)

// Grid (splits, KV_HEADS * PARTS, rows), 128 threads. `best`: largest score and sum of exponentials of a split.
extern "C" __global__ void __launch_bounds__(128)
    decode_attention(const Row* rows, const elem* q, const elem* keys, const elem* values, const int* tables, float* parts,
                     float2* best, elem* out) {
    const int r = blockIdx.z, split = blockIdx.x, kv = blockIdx.y / PARTS;
    const int first_head = kv * GROUP + blockIdx.y % PARTS * TOGETHER;
    const Row row = rows[r];
    const int length = row.position + 1, begin = split * SPLIT;
    if (begin >= length) {
        if (row.position < 0 && split == 0)
            for (int i = threadIdx.x; i < TOGETHER * HEAD_DIM; i += 128)
                out[(size_t)r * HEADS * HEAD_DIM + first_head * HEAD_DIM + i] = to_elem(0.0f);
        return;
    }
    const int count = min(SPLIT, length - begin);
    __shared__ float scores[TOGETHER][SPLIT];
    __shared__ int blocks[SPLIT_BLOCKS];
    __shared__ float sums[4][TOGETHER][HEAD_DIM];
    __shared__ float2 stats[TOGETHER];
    const int warp = threadIdx.x / WARP, team = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    if (threadIdx.x < SPLIT_BLOCKS && (int)threadIdx.x * BLOCK_TOKENS < count)
        blocks[threadIdx.x] = tables[(size_t)row.table * MAX_BLOCKS + split * SPLIT_BLOCKS + threadIdx.x];
    float query[TOGETHER][PIECES][VECTOR];
#pragma unroll
    for (int g = 0; g < TOGETHER; ++g)
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
            const int v = lane + p * LANES;
            if (v < VECTORS) {
                const Vector x = ((const Vector*)(q + (size_t)r * HEADS * HEAD_DIM + (first_head + g) * HEAD_DIM))[v];
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) query[g][p][i] = to_float(x.x[i]);
            } else {
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) query[g][p][i] = 0.0f;
            }
        }
    __syncthreads();
    const float scale = rsqrtf((float)HEAD_DIM);
    // Whole teams step together: shuffles need every lane of a warp.
    const int rounds = (count + TEAMS - 1) / TEAMS;
#pragma unroll 4
    for (int n = 0; n < rounds; ++n) {
        const int t = n * TEAMS + team;
        float dot[TOGETHER];
#pragma unroll
        for (int g = 0; g < TOGETHER; ++g) dot[g] = 0.0f;
        if (t < count) {
            const Vector* key = (const Vector*)(keys + cache_at(blocks[t / BLOCK_TOKENS], kv, t % BLOCK_TOKENS));
#pragma unroll
            for (int p = 0; p < PIECES; ++p) {
                const int v = lane + p * LANES;
                if (v >= VECTORS) continue;
                const Vector x = key[v];
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    const float k = to_float(x.x[i]);
#pragma unroll
                    for (int g = 0; g < TOGETHER; ++g) dot[g] += query[g][p][i] * k;
                }
            }
        }
#pragma unroll
        for (int g = 0; g < TOGETHER; ++g) {
#pragma unroll
            for (int d = LANES / 2; d > 0; d >>= 1) dot[g] += __shfl_xor_sync(FULL, dot[g], d);
            if (lane == 0 && t < count) scores[g][t] = dot[g] * scale;
        }
    }
    __syncthreads();
    for (int g = warp; g < TOGETHER; g += 4) {
        float top = NOTHING, sum = 0.0f;
        for (int t = threadIdx.x % WARP; t < count; t += WARP) top = fmaxf(top, scores[g][t]);
        top = warp_max(top);
        for (int t = threadIdx.x % WARP; t < count; t += WARP) {
            const float e = expf(scores[g][t] - top);
            scores[g][t] = e;
            sum += e;
        }
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0) stats[g] = make_float2(top, sum);
    }
    __syncthreads();
    float mixed[TOGETHER][PIECES][VECTOR];
#pragma unroll
    for (int g = 0; g < TOGETHER; ++g)
#pragma unroll
        for (int p = 0; p < PIECES; ++p)
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) mixed[g][p][i] = 0.0f;
#pragma unroll 4
    for (int t = team; t < count; t += TEAMS) {
        const Vector* value = (const Vector*)(values + cache_at(blocks[t / BLOCK_TOKENS], kv, t % BLOCK_TOKENS));
        float weight[TOGETHER];
#pragma unroll
        for (int g = 0; g < TOGETHER; ++g) weight[g] = scores[g][t];
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
            const int v = lane + p * LANES;
            if (v >= VECTORS) continue;
            const Vector x = value[v];
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                const float y = to_float(x.x[i]);
#pragma unroll
                for (int g = 0; g < TOGETHER; ++g) mixed[g][p][i] += weight[g] * y;
            }
        }
    }
    // Teams of a warp by shuffles, warps through shared memory: always in this order.
#pragma unroll
    for (int g = 0; g < TOGETHER; ++g)
#pragma unroll
        for (int p = 0; p < PIECES; ++p)
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) {
                float x = mixed[g][p][i];
#pragma unroll
                for (int d = LANES; d < WARP; d <<= 1) x += __shfl_xor_sync(FULL, x, d);
                const int v = lane + p * LANES;
                if (threadIdx.x % WARP < LANES && v < VECTORS) sums[warp][g][v * VECTOR + i] = x;
            }
    __syncthreads();
    const bool whole = length <= SPLIT;
    for (int n = threadIdx.x; n < TOGETHER * HEAD_DIM; n += 128) {
        const int g = n / HEAD_DIM, i = n % HEAD_DIM;
        const float x = sums[0][g][i] + sums[1][g][i] + sums[2][g][i] + sums[3][g][i];
        const size_t head = (size_t)r * HEADS + first_head + g;
        if (whole) {
            out[head * HEAD_DIM + i] = to_elem(x / stats[g].y);
        } else {
            parts[(head * gridDim.x + split) * HEAD_DIM + i] = x;
            if (i == 0) best[head * gridDim.x + split] = stats[g];
        }
    }
}

// Puts the splits of a long context together. Grid (HEADS, rows), 128 threads.
extern "C" __global__ void combine_splits(const Row* rows, const float* parts, const float2* best, elem* out, int splits) {
    const int length = rows[blockIdx.y].position + 1;
    if (length <= SPLIT) return;
    const int used = (length + SPLIT - 1) / SPLIT;
    const size_t head = (size_t)blockIdx.y * HEADS + blockIdx.x;
    float top = NOTHING, sum = 0.0f;
    for (int s = 0; s < used; ++s) top = fmaxf(top, best[head * splits + s].x);
    for (int s = 0; s < used; ++s) sum += best[head * splits + s].y * expf(best[head * splits + s].x - top);
    for (int i = threadIdx.x; i < HEAD_DIM; i += 128) {
        float x = 0.0f;
        for (int s = 0; s < used; ++s)
            x += parts[(head * splits + s) * HEAD_DIM + i] * expf(best[head * splits + s].x - top);
        out[head * HEAD_DIM + i] = to_elem(x / sum);
    }
}
