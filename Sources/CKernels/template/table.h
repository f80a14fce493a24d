// The table of the including file, named by TABLE.

const ck_table TABLE = {
    .name = TABLE_NAME,
    .encoding_of = ck_encoding_of,
    .group_bytes = ck_group_bytes,
    .pack_group = ck_pack_group,
    .encode_tile = encode_tile,
    .matmul = matmul,
    .attend = attend,
    .dequantise_row = dequantise_row,
    .to_float = to_float,
    .from_float = from_float,
    .store_keys = store_keys,
    .rms_norm = rms_norm,
    .add = add,
    .silu_multiply = silu_multiply,
    .rope = rope,
    .maximum = maximum,
    .argmax = argmax,
    .exp_sum = exp_sum,
    .scale = scale,
};
