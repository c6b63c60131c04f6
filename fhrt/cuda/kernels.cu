// What the GPU path does between the decoder, the networks and the encoder.
//
// compile.py gives this file to NVRTC, for the GPU at hand; tests/cuda gives the same file to g++,
// so that its arithmetic is compared with the CPU path where there is no GPU. launch.py calls it.
//
// A picture is uint8 RGB, (height, width, 3), with rows of `pitch` bytes. A batch is planar RGB in
// [0, 1], (N, 3, height, width), of fp16 where `fp16` is set, else of fp32. Pixel centres lie at
// integers. Unless a kernel says otherwise, a thread does one pixel of what is written.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long long u64;
typedef long long i64;

#ifdef __CUDACC_RTC__  // NVRTC brings no cuda_fp16.h: that comes with the whole toolkit only
__device__ float from_half(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ u16 to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ float load(const void* batch, i64 i, int fp16) {
    return fp16 ? from_half(((const u16*)batch)[i]) : ((const float*)batch)[i];
}

__device__ void store(void* batch, i64 i, int fp16, float value) {
    if (fp16)
        ((u16*)batch)[i] = to_half(value);
    else
        ((float*)batch)[i] = value;
}

__device__ float clamp(float value, float low, float high) {
    return fminf(fmaxf(value, low), high);
}

// What a network gives, in [0, 1], as the whole level that the CPU path makes of it.
__device__ float level(float value) { return floorf(clamp(value * 255.0f + 0.5f, 0.0f, 255.0f)); }

// The place that i has when a row of n pixels is mirrored at its ends, their pixels not repeated.
__device__ int mirrored(int i, int n) {
    if (n == 1) return 0;
    int period = 2 * n - 2;
    i = (i < 0 ? -i : i) % period;
    return i < n ? i : period - i;
}

// ---- Faces --------------------------------------------------------------------------------------

// A face to be cut out. The crop is sampled from a grid of columns x rows blocks of step x step
// pixels whose first pixel is (left, top): where a crop is smaller than the face it shows, the
// block means are what keeps it from aliasing. `inverse` maps a pixel of the crop to the grid.
struct CropFace {
    const u8* picture;
    i64 pitch;
    int left, top, columns, rows, step;
    float inverse[6];
};

// Faces to (N, 3, side, side): bilinear, mirrored at the picture's border. blockIdx.z: the face.
extern "C" __global__ void crop_faces(void* batch, int fp16, const CropFace* faces, int side) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= side || y >= side) return;
    const CropFace& face = faces[blockIdx.z];
    const float* m = face.inverse;
    float u = m[0] * x + m[1] * y + m[2];
    float v = m[3] * x + m[4] * y + m[5];
    int column = (int)floorf(u), row = (int)floorf(v);
    float fu = u - column, fv = v - row;
    float mean = 1.0f / (face.step * face.step);
    float value[3] = {0.0f, 0.0f, 0.0f};
    for (int tap = 0; tap < 4; tap++) {
        float weight = (tap & 1 ? fu : 1.0f - fu) * (tap & 2 ? fv : 1.0f - fv);
        int left = face.left + face.step * mirrored(column + (tap & 1), face.columns);
        int top = face.top + face.step * mirrored(row + (tap >> 1), face.rows);
        int sum[3] = {0, 0, 0};
        for (int j = 0; j < face.step; j++) {
            const u8* pixel = face.picture + (top + j) * face.pitch + left * 3;
            for (int i = 0; i < face.step; i++)
                for (int c = 0; c < 3; c++) sum[c] += *pixel++;
        }
        for (int c = 0; c < 3; c++) value[c] += weight * floorf(sum[c] * mean + 0.5f);
    }
    i64 plane = (i64)side * side;
    i64 at = blockIdx.z * 3 * plane + (i64)y * side + x;
    // Whole levels, as an 8-bit crop has: what a network leaves alone is then exactly unchanged.
    for (int c = 0; c < 3; c++) store(batch, at + c * plane, fp16, rintf(value[c]) / 255.0f);
}

// A face to be put back: its crop (3, side, side) as it was cut out and as the network gave it, and
// its rectangle of the picture. `to_crop` maps a pixel, counted from (left, top), to the grid of
// blocks of step x step pixels of the crop. `gain` is what each restored channel is multiplied by.
struct PasteFace {
    const void* before;
    const void* after;
    int side, left, top, right, bottom, step;
    float to_crop[6], gain[3];
};

// 1 inside, falling smoothly to 0 over the outer eighth of a crop.
__device__ float feather(int i, int side) {
    float edge = fminf(i + 0.5f, side - 0.5f - i) * 8.0f / side;
    edge = clamp(edge, 0.0f, 1.0f);
    return edge * edge * (3.0f - 2.0f * edge);
}

// The feathered change of a face at the place (u, v) of its grid, bilinear, 0 outside.
__device__ void change_at(const PasteFace& face, int fp16, float u, float v, float change[3]) {
    int column = (int)floorf(u), row = (int)floorf(v);
    int cells = face.side / face.step;
    float fu = u - column, fv = v - row;
    i64 plane = (i64)face.side * face.side;
    for (int tap = 0; tap < 4; tap++) {
        int i = column + (tap & 1), j = row + (tap >> 1);
        if (i < 0 || j < 0 || i >= cells || j >= cells) continue;
        float weight = (tap & 1 ? fu : 1.0f - fu) * (tap & 2 ? fv : 1.0f - fv);
        weight /= face.step * face.step;
        for (int y = j * face.step; y < (j + 1) * face.step; y++)
            for (int x = i * face.step; x < (i + 1) * face.step; x++) {
                i64 at = (i64)y * face.side + x;
                float mask = weight * feather(x, face.side) * feather(y, face.side);
                for (int c = 0; c < 3; c++) {
                    float after = load(face.after, at + c * plane, fp16) * face.gain[c];
                    float before = load(face.before, at + c * plane, fp16);
                    change[c] += mask * (level(after) - level(before));
                }
            }
    }
}

// Adds what restoration changed to the picture, face after face, as the CPU path does: each face is
// added to whole levels, so where faces overlap their order counts. The grid covers the rectangle
// that holds all faces, from (left, top); most of its pixels are in no face and are not touched.
extern "C" __global__ void paste_faces(u8* picture, i64 pitch, const PasteFace* faces, int count,
                                       int fp16, int left, int top) {
    int x = left + blockIdx.x * blockDim.x + threadIdx.x;
    int y = top + blockIdx.y * blockDim.y + threadIdx.y;
    u8* pixel = picture + y * pitch + (i64)x * 3;
    for (int n = 0; n < count; n++) {
        const PasteFace& face = faces[n];
        if (x < face.left || x >= face.right || y < face.top || y >= face.bottom) continue;
        const float* m = face.to_crop;
        float dx = x - face.left, dy = y - face.top;
        float change[3] = {0.0f, 0.0f, 0.0f};
        change_at(face, fp16, m[0] * dx + m[1] * dy + m[2], m[3] * dx + m[4] * dy + m[5], change);
        for (int c = 0; c < 3; c++)
            pixel[c] = (u8)clamp(rintf(pixel[c] + change[c]), 0.0f, 255.0f);
    }
}

// ---- Film: NV12 and P010 ------------------------------------------------------------------------

// 8-bit samples are bytes, 10-bit ones the upper bits of 16. kr, kb: the weights of red and blue in
// luma, which is what BT.601, 709 and 2020 differ in. Chroma is one sample for 2 x 2 pixels, given
// to all four and taken as their mean: a frame that goes to RGB and back has its chroma unblurred.

__device__ float sample(const void* row, int i, int bits) {
    return bits == 8 ? ((const u8*)row)[i] : ((const u16*)row)[i] >> 6;
}

__device__ void put_sample(void* row, int i, int bits, float value) {
    int whole = (int)clamp(rintf(value), 0.0f, (float)((1 << bits) - 1));
    if (bits == 8)
        ((u8*)row)[i] = whole;
    else
        ((u16*)row)[i] = whole << 6;
}

// Y = low + luma · E'y, C = middle + chroma · E'c (BT.709-6 and BT.2020-2; full range: BT.2100).
struct Range {
    float low, luma, middle, chroma;
};

__device__ Range range_of(int bits, int full) {
    float unit = 1 << (bits - 8), top = (1 << bits) - 1;
    if (full) return {0.0f, top, 128.0f * unit, top};
    return {16.0f * unit, 219.0f * unit, 128.0f * unit, 224.0f * unit};
}

// A thread does 2 x 2 pixels.
extern "C" __global__ void nv12_to_rgb(u8* picture, i64 pitch, const u8* luma, i64 luma_pitch,
                                       const u8* chroma, i64 chroma_pitch, int width, int height,
                                       int bits, int full, float kr, float kb) {
    int x0 = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    int y0 = 2 * (blockIdx.y * blockDim.y + threadIdx.y);
    if (x0 >= width || y0 >= height) return;
    Range range = range_of(bits, full);
    const void* pair = chroma + y0 / 2 * chroma_pitch;
    float cb = (sample(pair, x0, bits) - range.middle) / range.chroma;
    float cr = (sample(pair, x0 + 1, bits) - range.middle) / range.chroma;
    float red = 2.0f * (1.0f - kr) * cr, blue = 2.0f * (1.0f - kb) * cb;
    float green = -(kr * red + kb * blue) / (1.0f - kr - kb);
    for (int y = y0; y < min(y0 + 2, height); y++)
        for (int x = x0; x < min(x0 + 2, width); x++) {
            float grey = (sample(luma + y * luma_pitch, x, bits) - range.low) / range.luma;
            u8* pixel = picture + y * pitch + (i64)x * 3;
            pixel[0] = (u8)level(grey + red);
            pixel[1] = (u8)level(grey + green);
            pixel[2] = (u8)level(grey + blue);
        }
}

// A thread does 2 x 2 pixels.
extern "C" __global__ void rgb_to_nv12(const u8* picture, i64 pitch, u8* luma, i64 luma_pitch,
                                       u8* chroma, i64 chroma_pitch, int width, int height,
                                       int bits, int full, float kr, float kb) {
    int x0 = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
    int y0 = 2 * (blockIdx.y * blockDim.y + threadIdx.y);
    if (x0 >= width || y0 >= height) return;
    Range range = range_of(bits, full);
    float cb = 0.0f, cr = 0.0f;
    int count = 0;
    for (int y = y0; y < min(y0 + 2, height); y++)
        for (int x = x0; x < min(x0 + 2, width); x++, count++) {
            const u8* pixel = picture + y * pitch + (i64)x * 3;
            float red = pixel[0] / 255.0f, green = pixel[1] / 255.0f, blue = pixel[2] / 255.0f;
            float grey = kr * red + (1.0f - kr - kb) * green + kb * blue;
            put_sample(luma + y * luma_pitch, x, bits, range.low + range.luma * grey);
            cb += (blue - grey) / (2.0f * (1.0f - kb));
            cr += (red - grey) / (2.0f * (1.0f - kr));
        }
    void* pair = chroma + y0 / 2 * chroma_pitch;
    put_sample(pair, x0, bits, range.middle + range.chroma * cb / count);
    put_sample(pair, x0 + 1, bits, range.middle + range.chroma * cr / count);
}

// ---- Colour -------------------------------------------------------------------------------------

// Adds the sums of the three channels to `sums`. Blocks of 256 threads; any grid.
extern "C" __global__ void channel_sums(const u8* picture, i64 pitch, int width, int height,
                                        u64* sums) {
    __shared__ u64 total[3];
    if (threadIdx.x < 3) total[threadIdx.x] = 0;
    __syncthreads();
    u64 own[3] = {0, 0, 0};
    for (int y = blockIdx.x; y < height; y += gridDim.x)
        for (int x = threadIdx.x; x < width; x += blockDim.x)
            for (int c = 0; c < 3; c++) own[c] += picture[y * pitch + (i64)x * 3 + c];
    for (int c = 0; c < 3; c++) atomicAdd(&total[c], own[c]);
    __syncthreads();
    if (threadIdx.x < 3) atomicAdd(&sums[threadIdx.x], total[threadIdx.x]);
}

// Gray world (Buchsbaum 1980): each channel times the mean of all three over its own mean.
extern "C" __global__ void scale_channels(u8* picture, i64 pitch, int width, int height,
                                          const u64* sums) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    u8* pixel = picture + y * pitch + (i64)x * 3;
    float mean = (float)(sums[0] + sums[1] + sums[2]) / 3.0f;
    for (int c = 0; c < 3; c++) {
        float gain = sums[c] ? mean / (float)sums[c] : 1.0f;
        pixel[c] = (u8)fminf(rintf(pixel[c] * gain), 255.0f);
    }
}

// Contrast-limited adaptive histogram equalisation (Zuiderveld 1994) of a plane of bytes, with the
// padding, the clipping and the rounding of cv2.createCLAHE. A block of 256 threads, one a level,
// makes the table of one tile. limit: the most that a level may count, 0 for no limit.
extern "C" __global__ void clahe_tables(const u8* plane, i64 pitch, int width, int height,
                                        int tile_width, int tile_height, int limit, u8* tables) {
    __shared__ int counts[256];
    __shared__ int excess;
    int own = threadIdx.x, area = tile_width * tile_height;
    counts[own] = 0;
    if (own == 0) excess = 0;
    __syncthreads();
    for (int i = own; i < area; i += 256) {
        int x = mirrored(blockIdx.x * tile_width + i % tile_width, width);
        int y = mirrored(blockIdx.y * tile_height + i / tile_width, height);
        atomicAdd(&counts[plane[y * pitch + x]], 1);
    }
    __syncthreads();
    if (limit > 0) {  // what is above the limit goes to all levels alike, the rest evenly spaced
        int over = counts[own] - limit;
        if (over > 0) {
            atomicAdd(&excess, over);
            counts[own] = limit;
        }
        __syncthreads();
        int rest = excess % 256, spacing = rest ? max(256 / rest, 1) : 1;
        counts[own] += excess / 256 + (own % spacing == 0 && own / spacing < rest);
        __syncthreads();
    }
    for (int reach = 1; reach < 256; reach *= 2) {  // running sums (Hillis and Steele 1986)
        int lower = own >= reach ? counts[own - reach] : 0;
        __syncthreads();
        counts[own] += lower;
        __syncthreads();
    }
    u8* table = tables + (blockIdx.y * gridDim.x + blockIdx.x) * 256;
    table[own] = (u8)clamp(rintf(counts[own] * (255.0f / area)), 0.0f, 255.0f);
}

// Each pixel through the tables of the four nearest tiles, bilinear, in place.
extern "C" __global__ void clahe_apply(u8* plane, i64 pitch, int width, int height, int tile_width,
                                       int tile_height, int columns, int rows, const u8* tables) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    float u = x / (float)tile_width - 0.5f, v = y / (float)tile_height - 0.5f;
    int column = (int)floorf(u), row = (int)floorf(v);
    float fu = u - column, fv = v - row;
    u8* pixel = plane + y * pitch + x;
    float value = 0.0f;
    for (int tap = 0; tap < 4; tap++) {
        int i = min(max(column + (tap & 1), 0), columns - 1);
        int j = min(max(row + (tap >> 1), 0), rows - 1);
        float weight = (tap & 1 ? fu : 1.0f - fu) * (tap & 2 ? fv : 1.0f - fv);
        value += weight * tables[(j * columns + i) * 256 + *pixel];
    }
    *pixel = (u8)clamp(rintf(value), 0.0f, 255.0f);
}

// ---- Tiles of a picture that is enlarged piece by piece -----------------------------------------

// Tile n of (N, 3, tile, tile) begins at (starts[n % columns], starts[columns + n / columns]); what
// a small picture lacks is mirrored. blockIdx.z: the tile.
extern "C" __global__ void cut_tiles(void* tiles, int fp16, const u8* picture, i64 pitch, int width,
                                     int height, const int* starts, int columns, int tile) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= tile || y >= tile) return;
    int n = blockIdx.z;
    int from_x = mirrored(starts[n % columns] + x, width);
    int from_y = mirrored(starts[columns + n / columns] + y, height);
    const u8* pixel = picture + from_y * pitch + (i64)from_x * 3;
    i64 plane = (i64)tile * tile, at = n * 3 * plane + (i64)y * tile + x;
    for (int c = 0; c < 3; c++) store(tiles, at + c * plane, fp16, pixel[c] / 255.0f);
}

// How much a tile of `tile` pixels counts at its pixel i: rises from its edges over `ramp` pixels.
__device__ float tile_weight(int i, int tile, int ramp) {
    if (i < 0 || i >= tile) return 0.0f;
    return fminf(fminf(i + 0.5f, tile - 0.5f - i), fmaxf((float)ramp, 0.5f));
}

// The enlarged tiles (N, 3, tile, tile) to a picture: their weighted mean. `starts` counts pixels
// of the enlarged picture. Where two tiles overlap by `ramp` the one fades linearly into the other.
extern "C" __global__ void blend_tiles(u8* picture, i64 pitch, int width, int height,
                                       const void* tiles, int fp16, const int* starts, int columns,
                                       int rows, int tile, int ramp) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    i64 plane = (i64)tile * tile;
    float value[3] = {0.0f, 0.0f, 0.0f}, total = 0.0f;
    for (int row = 0; row < rows; row++) {
        int j = y - starts[columns + row];
        float across = tile_weight(j, tile, ramp);
        if (across == 0.0f) continue;
        for (int column = 0; column < columns; column++) {
            int i = x - starts[column];
            float weight = across * tile_weight(i, tile, ramp);
            if (weight == 0.0f) continue;
            i64 at = (row * columns + column) * 3 * plane + (i64)j * tile + i;
            for (int c = 0; c < 3; c++) value[c] += weight * load(tiles, at + c * plane, fp16);
            total += weight;
        }
    }
    for (int c = 0; c < 3; c++) picture[y * pitch + (i64)x * 3 + c] = (u8)level(value[c] / total);
}
