// x indexed along an axis by numbers read from memory; negative ones count from the end. A
// kernel cannot stop for one out of range: it gives zeros.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, const I* index, Y* y) {
  release_dependents();
  wait_for_producers();
  Index i = (Index)blockIdx.x * THREADS + threadIdx.x;
  if (i >= TOTAL) return;
  Offset ox = X_OFFSET, oi = I_OFFSET, oy = Y_OFFSET;
  LOCATE(i, ox, oi, oy)
  long long place = index[oi];
  if (place < 0) place += LENGTH;
  Pack<X, V> v = {};
  if (place >= 0 && place < LENGTH) v = load_pack<X, V>(x + ox + (Offset)place * STEP);
  Pack<Y, V> r;
#pragma unroll
  for (int q = 0; q < V; q++) r.v[q] = CONVERT(v.v[q]);
  store_pack<Y, V>(y + oy, r);
}
