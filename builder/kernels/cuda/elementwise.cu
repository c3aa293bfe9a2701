// Element-wise work on NHWC tensors, 8 channels a thread: y = act(a OP b), or y = act(a).
//
// a [PIXELS, LDA], y [PIXELS, LDY]; b [PIXELS, LDB], or one row of channels shared by all
// pixels (B_ROW), or absent (OP_NONE). Channels C_STORED, a multiple of 8; those from
// C_VALID on are written as zeros.
#define OP_NONE 0
#define OP_ADD 1
#define OP_SUB 2
#define OP_MUL 3
#define OP_DIV 4
#define OP_MIN 5
#define OP_MAX 6
#define OP_POW 7
#define CHUNKS (C_STORED / 8)

extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const T* a, const T* b, T* y) {
  release_dependents();
  wait_for_producers();
  int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= PIXELS * CHUNKS) return;
  int c = i % CHUNKS * 8, pixel = i / CHUNKS;
  float p[8], q[8];
  load8(p, a + (u64)pixel * LDA + c);
#if OP != OP_NONE
  load8(q, b + (B_ROW ? 0 : (u64)pixel * LDB) + c);
#endif
#pragma unroll
  for (int k = 0; k < 8; k++) {
    float v = p[k], w = OP == OP_NONE ? 0.0f : q[k];
    if (OP == OP_ADD) v += w;
    if (OP == OP_SUB) v -= w;
    if (OP == OP_MUL) v *= w;
    if (OP == OP_DIV) v /= w;
    if (OP == OP_MIN) v = lower(v, w);
    if (OP == OP_MAX) v = upper(v, w);
    if (OP == OP_POW) v = powf(v, w);
    p[k] = C_VALID < C_STORED && c + k >= C_VALID ? 0.0f : activate<ACT>(v, ACT_A, ACT_B);
  }
  store8(y + (u64)pixel * LDY + c, p);
}
