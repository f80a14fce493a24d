/// Stands in for the module Kernels, of which the parsers use these names only.
package enum ElementType: Sendable {
    case f32, f16, bf16, q4_0, q4_1, q8_0, q4_K, q5_K, q6_K, f8E4M3
}
