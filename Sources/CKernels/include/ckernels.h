// Compute kernels for CPUs, behind one table of functions per instruction set.
//
// Every table gives the same bits for the same input, except where a table packs weights or encodes
// activations in a way of its own (none does today; a later AMX table will). Two rules make that hold:
// a sum over the reduction has one order, fixed by the shape alone, and all other work is element-wise.
// So a row's result depends neither on the rows computed beside it, nor on tiling, nor on threads.

#ifndef CKERNELS_H
#define CKERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ckernels_threads.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Element types of weights as they are stored in model files (block formats as GGUF defines them).
enum {
    CK_F32 = 0,
    CK_F16 = 1,
    CK_BF16 = 2,
    CK_Q4_0 = 3,
    CK_Q4_1 = 4,
    CK_Q8_0 = 5,
    CK_Q4_K = 6,
    CK_Q5_K = 7,
    CK_Q6_K = 8,
    /// 8-bit floats (OCP OFP8 E4M3) with one f32 scale for each CK_SCALE_BLOCK × CK_SCALE_BLOCK weights.
    CK_F8_E4M3 = 9,
    CK_TYPE_COUNT = 10,
};

/// Output rows packed side by side: the lanes of one vector.
#define CK_GROUP_ROWS 16
/// Activation rows encoded side by side: the unit of work over rows.
#define CK_TILE_ROWS 8
/// Columns that share one activation scale.
#define CK_BLOCK_COLUMNS 32
/// Positions whose softmax is computed in one go; longer contexts merge segments in ascending order.
#define CK_SEGMENT_POSITIONS 1024
/// Largest head dimension `attend` takes.
#define CK_HEAD_DIM_MAX 1024
/// Rows and columns that share a scale of 8-bit floats; in caches, elements of a row.
#define CK_SCALE_BLOCK 128
/// Query heads `attend_latent` takes at once: the lanes of one vector.
#define CK_LATENT_HEADS 16
/// Largest latent and rotated key it takes, in elements.
#define CK_LATENT_MAX 1024
#define CK_LATENT_ROPE_MAX 256
/// Largest heads × dimension of an indexer.
#define CK_INDEX_MAX 16384

/// Ways to encode activations, as bits of a set: which of them a matrix needs is `encoding_of`'s answer.
enum {
    CK_ENCODING_FLOAT = 1,
    CK_ENCODING_INT16 = 2,
};

/// Activations of `rows` rows × `columns` columns, cut into tiles of `CK_TILE_ROWS` rows (the last may hold
/// fewer). Tile t starts at element t·CK_TILE_ROWS·columns; n is the number of rows in the tile.
typedef struct {
    /// CK_ENCODING_FLOAT: [tile][column][n].
    float *floats;
    /// CK_ENCODING_INT16: [tile][block of 32][n][32]; x ≈ scale · code.
    int16_t *codes;
    /// [tile][block][n]: the block's scale, max|x| / 32767. NaN when the block holds an infinity or a NaN.
    float *scales;
    /// [tile][block][n]: scale · Σ code, what an affine weight block's offset is multiplied by.
    float *sums;
    int64_t rows;
    int64_t columns;
} ck_activations;

/// One piece of a matrix product: out[r][n] = Σk x[r][k]·w[n][k] (+ bias[n]) (+ out[r][n] if adding).
typedef struct {
    /// Packed by the same table's `pack`, group 0 first.
    const void *weights;
    int32_t type;
    /// Add to what `out` holds.
    bool adding;
    /// Rows of the matrix (without padding) and columns of it.
    int64_t outputs;
    int64_t columns;
    /// Groups of 16 outputs to compute.
    int64_t group_begin;
    int64_t group_end;
    const ck_activations *x;
    /// Tiles of activation rows to compute.
    int64_t tile_begin;
    int64_t tile_end;
    /// Row 0, output 0; stride in floats.
    float *out;
    int64_t out_stride;
    /// One per output, or null.
    const float *bias;
} ck_matmul;

/// Attention of one key/value head for a run of consecutive positions of one sequence.
///
/// Keys lie transposed in a page, [headDim][pageTokens], so that lanes are positions; values lie
/// [pageTokens][headDim], so that lanes are dimensions.
typedef struct {
    /// Page i holds positions i·page_tokens ….
    void *const *pages;
    /// From a page's base to this head's keys and values, in bytes.
    int64_t key_offset;
    int64_t value_offset;
    int64_t page_tokens;
    int64_t head_dim;
    /// CK_F32, CK_F16 or CK_BF16.
    int32_t type;
    /// Query heads that share this key/value head.
    int32_t group;
    float scale;
    /// Absolute position of query row 0, and the rows to compute.
    int64_t first_position;
    int64_t row_begin;
    int64_t row_end;
    /// Row 0, first head of the group; strides in floats; head h of the group is at h·head_dim.
    const float *queries;
    int64_t query_stride;
    float *out;
    int64_t out_stride;
} ck_attention;

/// Attention of up to CK_LATENT_HEADS heads of one query row over latents that all heads share (multi-head latent
/// attention in its absorbed form; DeepSeek-V2, https://arxiv.org/abs/2405.04434). A position's key is its latent and
/// its rotated key, one behind the other; its value is the latent.
typedef struct {
    /// Page i holds positions i·page_tokens ….
    void *const *pages;
    int64_t page_tokens;
    /// From a page's base to the planes [pageTokens][latent] and [pageTokens][rope], in bytes.
    int64_t latent_offset;
    int64_t rope_offset;
    int64_t latent;
    int64_t rope;
    /// CK_F32, CK_F16, CK_BF16, or CK_F8_E4M3: latents as `store_scaled` leaves them, rotated keys in bf16.
    int32_t type;
    int32_t heads;
    /// The positions attended to, ascending; null: `first`, first + 1, ….
    const int32_t *selection;
    int64_t first;
    int64_t count;
    float scale;
    /// Head 0: its `latent` and then its `rope` numbers; strides between heads in floats.
    const float *queries;
    int64_t query_stride;
    /// Head 0: `latent` numbers.
    float *out;
    int64_t out_stride;
} ck_latent_attention;

/// How much one query wants to see each of some consecutive positions, by the lightning indexer of sparse attention
/// (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556): Σ_h weight[h] · max(0, q[h]·k · scale).
typedef struct {
    void *const *pages;
    int64_t page_tokens;
    /// From a page's base to the keys, [dimension][pageTokens]; in CK_F8_E4M3 with [pageTokens] scales in f32 behind.
    int64_t key_offset;
    int64_t dimension;
    int32_t type;
    int32_t heads;
    float scale;
    /// A multiple of 16.
    int64_t first;
    int64_t count;
    /// [heads][dimension]
    const float *queries;
    /// [heads]
    const float *weights;
    /// The score of position `first`; room for `count` rounded up to 16.
    float *scores;
} ck_index_scores;

/// One instruction set's kernels.
typedef struct {
    const char *name;

    /// The encoding a matrix of this type multiplies, or 0 if the table has no kernel for it.
    int32_t (*encoding_of)(int32_t type);
    /// Bytes of one packed group of 16 rows (a multiple of 64).
    int64_t (*group_bytes)(int32_t type, int64_t columns);
    /// Packs `rows` (1…16) consecutive rows, `row_bytes` apart, into one group; missing rows become zeros.
    void (*pack_group)(
        int32_t type, const uint8_t *rows_bytes, int64_t row_bytes, int64_t rows, int64_t columns, uint8_t *group);
    /// Encodes one tile from `count` (1…8) rows `stride` floats apart.
    void (*encode_tile)(
        const ck_activations *x, int32_t encodings, int64_t tile, const float *rows, int64_t stride);
    void (*matmul)(const ck_matmul *job);

    void (*attend)(const ck_attention *job);
    void (*attend_latent)(const ck_latent_attention *job);
    void (*index_scores)(const ck_index_scores *job);
    /// The `wanted` greatest of scores[begin …< end], or all if there are no more, as ascending indices; the lower index
    /// wins a tie. Returns how many. Zeros of either sign are equal.
    int64_t (*select_greatest)(
        const float *scores, int64_t begin, int64_t end, int64_t wanted, int32_t *indices);

    void (*dequantise_row)(int32_t type, const uint8_t *row, int64_t columns, float *out);
    void (*to_float)(int32_t type, const void *source, int64_t count, float *out);
    void (*from_float)(int32_t type, const float *source, int64_t count, void *out);
    /// Writes one position's keys of one head into its column of a transposed plane.
    void (*store_keys)(int32_t type, const float *keys, int64_t head_dim, int64_t page_tokens, void *column);
    /// Writes 8-bit floats, `stride` bytes apart, and one f32 scale per CK_SCALE_BLOCK of them, side by side.
    void (*store_scaled)(const float *source, int64_t count, uint8_t *codes, int64_t stride, void *scales);

    void (*rms_norm)(const float *x, const float *weight, int64_t count, float epsilon, float *out);
    /// Also subtracts the mean, and adds a bias.
    void (*layer_norm)(
        const float *x, const float *weight, const float *bias, int64_t count, float epsilon, float *out);
    void (*add)(const float *x, float *sum, int64_t count);
    /// sum += factor · x.
    void (*add_scaled)(const float *x, float factor, float *sum, int64_t count);
    /// out = 1 / (1 + e^−x).
    void (*sigmoid)(const float *x, int64_t count, float *out);
    void (*silu_multiply)(const float *gate, const float *up, int64_t count, float *out);
    void (*rope)(
        float *x, int64_t heads, int64_t head_dim, int64_t rotary_dim, bool interleaved, const float *cosines,
        const float *sines);

    float (*maximum)(const float *x, int64_t count);
    int64_t (*argmax)(const float *x, int64_t count);
    /// Σ exp((x − maximum) · factor); writes the terms when `out` is not null.
    float (*exp_sum)(const float *x, int64_t count, float maximum, float factor, float *out);
    void (*scale)(float *x, int64_t count, float factor);
} ck_table;

/// The instruction sets, in ascending order of preference.
enum {
    CK_ISA_PORTABLE = 0,
    CK_ISA_AVX2 = 1,
    CK_ISA_AVX512 = 2,
    CK_ISA_COUNT = 3,
};

/// Packs 16 rows of 8-bit floats with the scales of their blocks of columns, for `matmul`.
void ck_pack_scaled_group(
    const uint8_t *rows_bytes, int64_t row_bytes, int64_t rows, int64_t columns, const float *scales, uint8_t *group);

/// The table of an instruction set, or null if this CPU, its operating system or this build lacks it.
const ck_table *ck_table_for(int32_t isa);

#ifdef __cplusplus
}
#endif

#endif
