// Copies by tables of places along axes: padding of every mode, nearest resampling of any axes.
// TABLES(inside, ox) adds the places that the tables give; a negative one is no place, and the
// element is FIXED.
extern "C" __global__ void __launch_bounds__(THREADS) KERNEL(const X* x, Y* y TABLE_PARAMETERS) {
  release_dependents();
  Index i = (Index)blockIdx.x * THREADS + threadIdx.x;
  if (i >= TOTAL) return;
  Offset ox = X_OFFSET, oy = Y_OFFSET;
  LOCATE(i, ox, oy)
  bool inside = true;
  TABLES(inside, ox)
  wait_for_producers();
  Pack<Y, V> r;
  if (inside) {
    Pack<X, V> v = load_pack<X, V>(x + ox);
#pragma unroll
    for (int q = 0; q < V; q++) r.v[q] = CONVERT(v.v[q]);
  } else {
#pragma unroll
    for (int q = 0; q < V; q++) r.v[q] = FIXED;
  }
  store_pack<Y, V>(y + oy, r);
}
