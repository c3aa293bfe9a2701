// Nearest and bilinear resampling over the two spatial axes, NHWC, 8 channels a thread.
//
// x [BATCH, IH, IW, LDX], y [BATCH, OH, OW, LDY]. Which source rows and columns an output pixel
// takes, and with which weight, comes from tables made by the builder (so that every coordinate
// mode of ONNX is one kernel): for nearest `rows[oh]`, `columns[ow]`; for linear two entries
// each, `rows[2*oh]`, `rows[2*oh+1]`, with `row_weights[oh]` the share of the second.
#define CHUNKS (C_STORED / 8)

extern "C" __global__ void __launch_bounds__(THREADS)
KERNEL(const T* x, T* y, const int* __restrict__ rows, const int* __restrict__ columns,
       const float* __restrict__ row_weights, const float* __restrict__ column_weights) {
  release_dependents();
  int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= BATCH * OH * OW * CHUNKS) return;
  int c = i % CHUNKS * 8, pixel = i / CHUNKS, ow = pixel % OW, oh = pixel / OW % OH, n = pixel / OW / OH;
  A v[8];
#if LINEAR
  int r0 = rows[2 * oh], r1 = rows[2 * oh + 1], c0 = columns[2 * ow], c1 = columns[2 * ow + 1];
  float fr = row_weights[oh], fc = column_weights[ow], a[8], b[8], d[8], e[8];
  wait_for_producers();
  const T* image = x + (u64)n * IH * IW * LDX + c;
  load8(a, image + (u64)(r0 * IW + c0) * LDX);
  load8(b, image + (u64)(r0 * IW + c1) * LDX);
  load8(d, image + (u64)(r1 * IW + c0) * LDX);
  load8(e, image + (u64)(r1 * IW + c1) * LDX);
#pragma unroll
  for (int q = 0; q < 8; q++) {
    float top = a[q] + fc * (b[q] - a[q]), bottom = d[q] + fc * (e[q] - d[q]);
    v[q] = top + fr * (bottom - top);
  }
#else
  int r = rows[oh], s = columns[ow];
  wait_for_producers();
  load8(v, x + (u64)((n * IH + r) * IW + s) * LDX + c);
#endif
  store8(y + (u64)pixel * LDY + c, v);
}
