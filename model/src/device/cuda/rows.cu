// Kernels that work row by row: embedding, norms, rotation, SwiGLU, biases, gathering.

constexpr int BLOCK = 256;
constexpr int HV = HIDDEN % 4 == 0 ? 4 : 1;
constexpr int FV = FF % 4 == 0 ? 4 : 1;
constexpr int PER = (HIDDEN + BLOCK * HV - 1) / (BLOCK * HV);

// x[r] = embed[tokens[r]]
extern "C" __global__ void embed(const T *table, const int *tokens, float *x) {
    const T *from = table + (u64)tokens[blockIdx.x] * HIDDEN;
    float *to = x + (u64)blockIdx.x * HIDDEN;
    for (int i = threadIdx.x * HV; i < HIDDEN; i += BLOCK * HV) store(to + i, load<HV>(from + i));
}

// x += delta (where there is one), inv = 1 / sqrt(mean(x^2) + eps), y = x inv w. `out` gets the sum where it is not null.
extern "C" __global__ void add_norm(const float *x, const T *delta, const float *w, float eps, float *out, T *y, float *inv) {
    __shared__ float scratch[33];
    u64 row = (u64)blockIdx.x * HIDDEN;
    Pack<HV> held[PER];
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < PER; k++) {
        int i = (k * BLOCK + threadIdx.x) * HV;
        if (i >= HIDDEN) break;
        held[k] = load<HV>(x + row + i);
        if (delta) {
            Pack<HV> d = load<HV>(delta + row + i);
            for (int j = 0; j < HV; j++) held[k].v[j] += d.v[j];
        }
        if (out) store(out + row + i, held[k]);
        for (int j = 0; j < HV; j++) squares += held[k].v[j] * held[k].v[j];
    }
    float scale = rsqrtf(block_sum(squares, scratch) / HIDDEN + eps);
    if (threadIdx.x == 0) inv[blockIdx.x] = scale;
#pragma unroll
    for (int k = 0; k < PER; k++) {
        int i = (k * BLOCK + threadIdx.x) * HV;
        if (i >= HIDDEN) break;
        Pack<HV> g = load<HV>(w + i), o;
        for (int j = 0; j < HV; j++) o.v[j] = held[k].v[j] * scale * g.v[j];
        store(y + row + i, o);
    }
}

// y = x inv w, from a kept inv.
extern "C" __global__ void norm_again(const float *x, const float *inv, const float *w, T *y) {
    u64 row = (u64)blockIdx.x * HIDDEN;
    float scale = inv[blockIdx.x];
    for (int i = threadIdx.x * HV; i < HIDDEN; i += BLOCK * HV) {
        Pack<HV> a = load<HV>(x + row + i), g = load<HV>(w + i);
        for (int j = 0; j < HV; j++) a.v[j] = a.v[j] * scale * g.v[j];
        store(y + row + i, a);
    }
}

// dx (+)= inv (g - x inv^2 mean(g x)), g = dy w; also in elements, for the next product. `add`: 0 overwrites dx.
extern "C" __global__ void norm_backward(const T *dy, const float *x, const float *inv, const float *w, float *dx, T *dx_t, int add) {
    __shared__ float scratch[33];
    u64 row = (u64)blockIdx.x * HIDDEN;
    float scale = inv[blockIdx.x];
    Pack<HV> g[PER], a[PER];
    float dot = 0.0f;
#pragma unroll
    for (int k = 0; k < PER; k++) {
        int i = (k * BLOCK + threadIdx.x) * HV;
        if (i >= HIDDEN) break;
        a[k] = load<HV>(x + row + i);
        g[k] = load<HV>(dy + row + i);
        Pack<HV> h = load<HV>(w + i);
        for (int j = 0; j < HV; j++) {
            g[k].v[j] *= h.v[j];
            dot += g[k].v[j] * a[k].v[j];
        }
    }
    float mean = block_sum(dot, scratch) / HIDDEN * scale * scale;
#pragma unroll
    for (int k = 0; k < PER; k++) {
        int i = (k * BLOCK + threadIdx.x) * HV;
        if (i >= HIDDEN) break;
        Pack<HV> o;
        for (int j = 0; j < HV; j++) o.v[j] = scale * (g[k].v[j] - a[k].v[j] * mean);
        if (add) {
            Pack<HV> old = load<HV>(dx + row + i);
            for (int j = 0; j < HV; j++) o.v[j] += old.v[j];
        }
        store(dx + row + i, o);
        store(dx_t + row + i, o);
    }
}

// partial[s][c] = sum over the rows r = s mod splits of dy[r][c] (times x[r][c] inv[r] where x is given). 32 x 8 threads.
extern "C" __global__ void column_sums(const T *dy, const float *x, const float *inv, float *partial, int rows, int cols) {
    __shared__ float tile[8][33];
    int lane = threadIdx.x & 31, line = threadIdx.x >> 5;
    int c = blockIdx.x * 32 + lane, splits = gridDim.y;
    float sum = 0.0f;
    if (c < cols) {
        for (int r = blockIdx.y * 8 + line; r < rows; r += splits * 8) {
            float d = get(dy[(u64)r * cols + c]);
            sum += x ? d * x[(u64)r * cols + c] * inv[r] : d;
        }
    }
    tile[line][lane] = sum;
    __syncthreads();
    if (line == 0 && c < cols) {
        for (int k = 1; k < 8; k++) sum += tile[k][lane];
        partial[(u64)blockIdx.y * cols + c] = sum;
    }
}

// grad[c] += sum of partial[.][offset + c], lines of `width`. 32 x 8 threads.
extern "C" __global__ void add_partials(const float *partial, float *grad, int splits, int width, int offset, int cols) {
    __shared__ float tile[8][33];
    int lane = threadIdx.x & 31, line = threadIdx.x >> 5, c = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (c < cols) {
        for (int s = line; s < splits; s += 8) sum += partial[(u64)s * width + offset + c];
    }
    tile[line][lane] = sum;
    __syncthreads();
    if (line == 0 && c < cols) {
        for (int k = 1; k < 8; k++) sum += tile[k][lane];
        grad[c] += sum;
    }
}

// y[r][c] += b[c]
extern "C" __global__ void add_bias(T *y, const float *b, int cols) {
    T *row = y + (u64)blockIdx.x * cols;
    for (int i = threadIdx.x; i < cols; i += blockDim.x) put(row + i, get(row[i]) + b[i]);
}

// Queries and keys of raw q k v rows: normed (with QK_NORM), rotated. A warp a head. inv: [rows, HEADS + KV_HEADS].
// cosines, sines: [positions, HALF].
extern "C" __global__ void rotate(const T *raw, const int *positions, const float *cosines, const float *sines, const float *wq,
                                  const float *wk, float eps, T *qk, float *inv, int rows) {
    int task = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (task >= rows * (HEADS + KV_HEADS)) return;
    int row = task / (HEADS + KV_HEADS), head = task % (HEADS + KV_HEADS);
    const T *from = raw + (u64)row * QKV_DIM + head * HEAD_DIM;
    T *to = qk + (u64)row * QK_DIM + head * HEAD_DIM;
    float scale = 1.0f;
#if QK_NORM
    const float *w = head < HEADS ? wq : wk;
    float squares = 0.0f;
    for (int i = lane; i < HEAD_DIM; i += 32) squares += get(from[i]) * get(from[i]);
    scale = rsqrtf(warp_sum(squares) / HEAD_DIM + eps);
    if (lane == 0) inv[task] = scale;
#endif
    u64 angle = (u64)positions[row] * HALF;
    for (int i = lane; i < HALF; i += 32) {
        float a = get(from[i]) * scale, b = get(from[i + HALF]) * scale;
#if QK_NORM
        a *= w[i];
        b *= w[i + HALF];
#endif
        float c = cosines[angle + i], s = sines[angle + i];
        put(to + i, a * c - b * s);
        put(to + i + HALF, b * c + a * s);
    }
}

// In place on d_qkv: the gradient of the rotated queries and keys becomes that of the raw ones. With QK_NORM, partial[block]
// gets [wq, wk] gradients of HEAD_DIM each. Blocks of 8 warps, any number of them.
extern "C" __global__ void rotate_backward(T *d_qkv, const T *raw, const float *inv, const int *positions, const float *cosines,
                                           const float *sines, const float *wq, const float *wk, float *partial, int rows) {
    constexpr int EACH = (HALF + 31) / 32;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    int tasks = rows * (HEADS + KV_HEADS);
#if QK_NORM
    __shared__ float sums[8][2 * HEAD_DIM];
    float mine[2][2 * EACH];
    for (int i = 0; i < 2 * EACH; i++) mine[0][i] = mine[1][i] = 0.0f;
#endif
    for (int task = blockIdx.x * 8 + warp; task < tasks; task += gridDim.x * 8) {
        int row = task / (HEADS + KV_HEADS), head = task % (HEADS + KV_HEADS);
        T *d = d_qkv + (u64)row * QKV_DIM + head * HEAD_DIM;
        u64 angle = (u64)positions[row] * HALF;
        float da[EACH], db[EACH];
        for (int k = 0; k < EACH; k++) {
            int i = lane + 32 * k;
            da[k] = db[k] = 0.0f;
            if (i < HALF) {
                float c = cosines[angle + i], s = sines[angle + i];
                float a = get(d[i]), b = get(d[i + HALF]);
                da[k] = a * c + b * s;
                db[k] = b * c - a * s;
            }
        }
#if QK_NORM
        const T *x = raw + (u64)row * QKV_DIM + head * HEAD_DIM;
        const float *w = head < HEADS ? wq : wk;
        float scale = inv[task], dot = 0.0f;
        float xa[EACH], xb[EACH];
        for (int k = 0; k < EACH; k++) {
            int i = lane + 32 * k;
            if (i < HALF) {
                xa[k] = get(x[i]);
                xb[k] = get(x[i + HALF]);
                float ga = da[k] * xa[k] * scale, gb = db[k] * xb[k] * scale;
                if (head < HEADS) {
                    mine[0][2 * k] += ga;
                    mine[0][2 * k + 1] += gb;
                } else {
                    mine[1][2 * k] += ga;
                    mine[1][2 * k + 1] += gb;
                }
                da[k] *= w[i];
                db[k] *= w[i + HALF];
                dot += da[k] * xa[k] + db[k] * xb[k];
            }
        }
        float mean = warp_sum(dot) / HEAD_DIM * scale * scale;
        for (int k = 0; k < EACH; k++) {
            if (lane + 32 * k < HALF) {
                da[k] = scale * (da[k] - xa[k] * mean);
                db[k] = scale * (db[k] - xb[k] * mean);
            }
        }
#endif
        for (int k = 0; k < EACH; k++) {
            int i = lane + 32 * k;
            if (i < HALF) {
                put(d + i, da[k]);
                put(d + i + HALF, db[k]);
            }
        }
    }
#if QK_NORM
    for (int which = 0; which < 2; which++) {
        for (int k = 0; k < EACH; k++) {
            int i = lane + 32 * k;
            if (i < HALF) {
                sums[warp][which * HEAD_DIM + i] = mine[which][2 * k];
                sums[warp][which * HEAD_DIM + i + HALF] = mine[which][2 * k + 1];
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * HEAD_DIM; i += blockDim.x) {
        float sum = 0.0f;
        for (int k = 0; k < 8; k++) sum += sums[k][i];
        partial[(u64)blockIdx.x * 2 * HEAD_DIM + i] = sum;
    }
#endif
}

// act = silu(gate) up, gate_up: [rows, 2 FF].
extern "C" __global__ void swiglu(const T *gate_up, T *act) {
    const T *from = gate_up + (u64)blockIdx.x * 2 * FF;
    T *to = act + (u64)blockIdx.x * FF;
    for (int i = threadIdx.x * FV; i < FF; i += blockDim.x * FV) {
        Pack<FV> g = load<FV>(from + i), u = load<FV>(from + FF + i);
        for (int j = 0; j < FV; j++) g.v[j] = g.v[j] / (1.0f + exp_of(-g.v[j])) * u.v[j];
        store(to + i, g);
    }
}

// In place: gate_up becomes its gradient; act is computed again. d_act and act may be the same memory.
extern "C" __global__ void swiglu_backward(T *gate_up, const T *d_act, T *act) {
    T *both = gate_up + (u64)blockIdx.x * 2 * FF;
    u64 row = (u64)blockIdx.x * FF;
    for (int i = threadIdx.x * FV; i < FF; i += blockDim.x * FV) {
        Pack<FV> g = load<FV>(both + i), u = load<FV>(both + FF + i), d = load<FV>(d_act + row + i), a;
        for (int j = 0; j < FV; j++) {
            float s = 1.0f / (1.0f + exp_of(-g.v[j])), silu = g.v[j] * s;
            a.v[j] = silu * u.v[j];
            float dg = d.v[j] * u.v[j] * s * (1.0f + g.v[j] * (1.0f - s));
            u.v[j] = d.v[j] * silu;
            g.v[j] = dg;
        }
        store(act + row + i, a);
        store(both + i, g);
        store(both + FF + i, u);
    }
}

// out[i] = from[rows[i]]
extern "C" __global__ void gather(const T *from, const int *rows, T *out) {
    const T *a = from + (u64)rows[blockIdx.x] * HIDDEN;
    T *b = out + (u64)blockIdx.x * HIDDEN;
    for (int i = threadIdx.x * HV; i < HIDDEN; i += BLOCK * HV) store(b + i, load<HV>(a + i));
}

// out[r] = sum of from[list[k]] for k in offsets[r] .. offsets[r + 1]; 0 where there is none.
extern "C" __global__ void collect(const T *from, const int *offsets, const int *list, T *out) {
    int first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
    for (int i = threadIdx.x * HV; i < HIDDEN; i += BLOCK * HV) {
        Pack<HV> sum;
        for (int j = 0; j < HV; j++) sum.v[j] = 0.0f;
        for (int k = first; k < last; k++) {
            Pack<HV> a = load<HV>(from + (u64)list[k] * HIDDEN + i);
            for (int j = 0; j < HV; j++) sum.v[j] += a.v[j];
        }
        store(out + (u64)blockIdx.x * HIDDEN + i, sum);
    }
}

// grad[tokens[b]] += sum of dx[list[k]] for k in offsets[b] .. offsets[b + 1]: a block a token, in the rows' order.
extern "C" __global__ void embed_backward(const float *dx, const int *tokens, const int *offsets, const int *list, float *grad) {
    int first = offsets[blockIdx.x], last = offsets[blockIdx.x + 1];
    float *to = grad + (u64)tokens[blockIdx.x] * HIDDEN;
    for (int i = threadIdx.x * HV; i < HIDDEN; i += BLOCK * HV) {
        Pack<HV> sum = load<HV>(to + i);
        for (int k = first; k < last; k++) {
            Pack<HV> a = load<HV>(dx + (u64)list[k] * HIDDEN + i);
            for (int j = 0; j < HV; j++) sum.v[j] += a.v[j];
        }
        store(to + i, sum);
    }
}
