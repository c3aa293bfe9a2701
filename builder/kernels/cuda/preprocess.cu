// A camera's frame into the network's picture: colours, resizing, normalisation, layout, as
// tobiuo-cpu's Preprocessor does it, operation by operation: additions and multiplications are
// not contracted, so that the results are the same bits.
//
// The frame's format and size come at run time in `geometry` (tobiuo_engine::picture::geometry);
// the picture's size P_W x P_H, its channels, their order (0 RGB, 1 BGR, 2 grey), its layout in
// elements (P_SC, P_SY, P_SX, P_STORED channels) and type (P_F16) are compiled in.
#if P_F16
typedef f16 P;
#define P_OF(x) to_f16(x)
#else
typedef float P;
#define P_OF(x) (x)
#endif

#define G_WIDTH 1
#define G_HEIGHT 2
#define G_PITCH 3
#define G_PLANE1 4
#define G_PITCH1 5
#define G_PLANE2 6
#define G_PITCH2 7
#define G_COVERED 8
#define G_SCALES 12
#define G_TABLES 32

struct Colour {
  float r, g, b;
};

__device__ __forceinline__ float limited(float v) { return fminf(fmaxf(v, 0.0f), 255.0f); }

// Video-range BT.601.
__device__ __forceinline__ Colour ycbcr(u32 luma, u32 blue, u32 red) {
  float y = __fmul_rn((float)luma - 16.0f, 255.0f / 219.0f);
  float cb = (float)blue - 128.0f, cr = (float)red - 128.0f;
  Colour c;
  c.r = limited(__fadd_rn(y, __fmul_rn(1.5960268f, cr)));
  c.g = limited(__fsub_rn(__fsub_rn(y, __fmul_rn(0.3917623f, cb)), __fmul_rn(0.8129676f, cr)));
  c.b = limited(__fadd_rn(y, __fmul_rn(2.0172321f, cb)));
  return c;
}

template <int FORMAT>
__device__ __forceinline__ Colour pixel(const u8* frame, const u32* g, u32 x, u32 y) {
  Colour c;
  const u8* row = frame + (u64)y * g[G_PITCH];
  if (FORMAT <= 1) {
    const u8* p = row + 3 * x;
    c.g = p[1];
    c.r = p[FORMAT == 0 ? 0 : 2], c.b = p[FORMAT == 0 ? 2 : 0];
  } else if (FORMAT == 2) {
    c.r = c.g = c.b = row[x];
  } else if (FORMAT <= 4) {
    u32 pair = *(const u32*)(row + x / 2 * 4);
    u32 luma = FORMAT == 3 ? pair >> (x & 1) * 16 : pair >> (8 + (x & 1) * 16);
    u32 chroma = FORMAT == 3 ? pair >> 8 : pair;
    c = ycbcr(luma & 255, chroma & 255, chroma >> 16 & 255);
  } else if (FORMAT == 5) {
    const u8* p = frame + g[G_PLANE1] + (u64)(y / 2) * g[G_PITCH1] + x / 2 * 2;
    c = ycbcr(row[x], p[0], p[1]);
  } else {
    u64 at = (u64)(y / 2) * g[G_PITCH1] + x / 2;
    c = ycbcr(row[x], frame[g[G_PLANE1] + at], frame[g[G_PLANE2] + at]);
  }
  return c;
}

// The colour as the network's channels.
__device__ __forceinline__ void channels(float* to, Colour c) {
#if P_ORDER == 2
  to[0] = __fadd_rn(__fadd_rn(__fmul_rn(0.299f, c.r), __fmul_rn(0.587f, c.g)), __fmul_rn(0.114f, c.b));
#elif P_ORDER == 1
  to[0] = c.b, to[1] = c.g, to[2] = c.r;
#else
  to[0] = c.r, to[1] = c.g, to[2] = c.b;
#endif
}

template <int FORMAT>
__device__ __forceinline__ void sample(float* to, const u8* frame, const u32* g, u32 x, u32 y) {
#if P_ORDER == 2
  // A grey frame's pixel is the grey network's, not the weighted sum of three equal ones.
  if (FORMAT == 2) {
    to[0] = frame[(u64)y * g[G_PITCH] + x];
    return;
  }
#endif
  channels(to, pixel<FORMAT>(frame, g, x, y));
}

__device__ __forceinline__ float mixed(float a, float b, float weight) {
  return __fadd_rn(a, __fmul_rn(__fsub_rn(b, a), weight));
}

template <int FORMAT>
__device__ __forceinline__ void resized(float* to, const u8* frame, const u32* g, u32 x, u32 y) {
  const u32* column = g + G_TABLES + 2 * x;
  const u32* line = g + G_TABLES + 2 * P_W + 2 * y;
  u32 x0 = column[0], y0 = line[0];
  u32 x1 = min(x0 + 1, g[G_WIDTH] - 1), y1 = min(y0 + 1, g[G_HEIGHT] - 1);
  float wx = __int_as_float(column[1]), wy = __int_as_float(line[1]);
  float a[P_CHANNELS], b[P_CHANNELS], c[P_CHANNELS], d[P_CHANNELS];
  sample<FORMAT>(a, frame, g, x0, y0);
  sample<FORMAT>(b, frame, g, x1, y0);
  sample<FORMAT>(c, frame, g, x0, y1);
  sample<FORMAT>(d, frame, g, x1, y1);
#pragma unroll
  for (int i = 0; i < P_CHANNELS; i++) {
    float v = mixed(mixed(a[i], c[i], wy), mixed(b[i], d[i], wy), wx);
    const u32* scale = g + G_SCALES + 3 * i;
    to[i] = __fadd_rn(__fmul_rn(v, __int_as_float(scale[0])), __int_as_float(scale[1]));
  }
}

// Frame, geometry, picture. Blocks of 32 x 8 pixels.
extern "C" __global__ void __launch_bounds__(256) preprocess(const u8* frame, const u32* geometry, P* picture) {
  release_dependents();
  wait_for_producers();
  u32 x = blockIdx.x * 32 + threadIdx.x % 32, y = blockIdx.y * 8 + threadIdx.x / 32;
  if (x >= P_W || y >= P_H) return;
  const u32* g = geometry;
  float v[P_STORED];
#pragma unroll
  for (int i = 0; i < P_STORED; i++) v[i] = i < P_CHANNELS ? __int_as_float(g[G_SCALES + 3 * i + 2]) : 0.0f;
  if (x >= g[G_COVERED] && x < g[G_COVERED + 1] && y >= g[G_COVERED + 2] && y < g[G_COVERED + 3]) {
    switch (g[0]) {
      case 0: resized<0>(v, frame, g, x, y); break;
      case 1: resized<1>(v, frame, g, x, y); break;
      case 2: resized<2>(v, frame, g, x, y); break;
      case 3: resized<3>(v, frame, g, x, y); break;
      case 4: resized<4>(v, frame, g, x, y); break;
      case 5: resized<5>(v, frame, g, x, y); break;
      default: resized<6>(v, frame, g, x, y); break;
    }
  }
  P* to = picture + (u64)y * P_SY + (u64)x * P_SX;
#if P_VECTOR && P_F16
#pragma unroll
  for (int i = 0; i < P_STORED; i += 4) *(uint2*)(to + i) = make_uint2(pack_f16(v[i], v[i + 1]), pack_f16(v[i + 2], v[i + 3]));
#elif P_VECTOR
#pragma unroll
  for (int i = 0; i < P_STORED; i += 4) *(float4*)(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
#else
#pragma unroll
  for (int i = 0; i < P_STORED; i++) to[(u64)i * P_SC] = P_OF(v[i]);
#endif
}

// Reads a frame from host memory that is mapped into the device, once, in whole rows of vectors:
// the upload where host and device share their memory. Both addresses are multiples of 16.
extern "C" __global__ void __launch_bounds__(256) upload(const u8* host, u8* frame, u64 bytes) {
  release_dependents();
  wait_for_producers();
  u64 vectors = bytes / 16, step = (u64)gridDim.x * 256, i = blockIdx.x * 256 + threadIdx.x;
  const uint4* from = (const uint4*)host;
  uint4* to = (uint4*)frame;
  // Four reads under way, because each takes long.
  for (; i + 3 * step < vectors; i += 4 * step) {
    uint4 a = from[i], b = from[i + step], c = from[i + 2 * step], d = from[i + 3 * step];
    to[i] = a, to[i + step] = b, to[i + 2 * step] = c, to[i + 3 * step] = d;
  }
  for (; i < vectors; i += step) to[i] = from[i];
  u64 tail = vectors * 16 + threadIdx.x;
  if (blockIdx.x == 0 && tail < bytes) frame[tail] = host[tail];
}
