// Element-wise work on NHWC tensors of which one at least holds integers, 8 channels a thread:
// y = act(a OP b), or y = act(a). The arithmetic is tobiuo_ops::QuantBinary's; a float alone is
// divided by y's scale, as tobiuo_ops::Op::Quantize says.
//
// a [PIXELS, LDA], y [PIXELS, LDY]; b [PIXELS, LDB], or one row of channels shared by all
// pixels (B_ROW), or absent (OP_NONE). Channels C_STORED, a multiple of 8; those from
// C_VALID on are written as Y_ZERO.
#define OP_NONE 0
#define OP_ADD 1
#define OP_SUB 2
#define OP_MUL 3
#define OP_MIN 5
#define OP_MAX 6
#define CHUNKS (C_STORED / 8)

// What numbers stand for.
template <int KIND>
__device__ __forceinline__ void load_real(float* d, const typename Numbers<KIND>::Type* p, float scale, int zero) {
  load_numbers<KIND>(d, p, zero);
#pragma unroll
  for (int q = 0; q < 8; q++)
    if (IS_INTEGER(KIND)) d[q] = __fmul_rn(d[q], scale);
}

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const Numbers<A_KIND>::Type* a, const Numbers<B_KIND>::Type* b, Numbers<Y_KIND>::Type* y) {
  release_dependents();
  wait_for_producers();
  int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= PIXELS * CHUNKS) return;
  int c = i % CHUNKS * 8, pixel = i / CHUNKS;
  float p[8], q[8];
  load_real<A_KIND>(p, a + (u64)pixel * LDA + c, A_SCALE, A_ZERO);
#if OP != OP_NONE
  load_real<B_KIND>(q, b + (B_ROW ? 0 : (u64)pixel * LDB) + c, B_SCALE, B_ZERO);
#endif
#pragma unroll
  for (int k = 0; k < 8; k++) {
    float v = p[k], w = OP == OP_NONE ? 0.0f : q[k];
    if (OP == OP_ADD) v = __fadd_rn(v, w);
    if (OP == OP_SUB) v = __fsub_rn(v, w);
    if (OP == OP_MUL) v = __fmul_rn(v, w);
    if (OP == OP_MIN) v = fminf(v, w);
    if (OP == OP_MAX) v = fmaxf(v, w);
    v = activate_exact<ACT>(v, ACT_A, ACT_B);
#if DIVIDED
    v = __fdiv_rn(v, Y_SCALE);
#endif
    p[k] = C_VALID < C_STORED && c + k >= C_VALID ? 0.0f : v;
  }
  store_numbers<Y_KIND>(y + (u64)pixel * LDY + c, p, DIVIDED ? 1.0f : Y_INVERSE, Y_ZERO);
}
