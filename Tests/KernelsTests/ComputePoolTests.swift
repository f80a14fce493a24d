import Glibc
import Kernels
import Synchronization
import Testing

struct ComputePoolTests {
    @Test(arguments: 1...5)
    func everyIndexOnce(threads: Int) throws {
        let pool = try ComputePool(threads: threads)
        for count in [0, 1, 2, 3, 100, 1000] {
            var calls = [Int32](repeating: 0, count: count)
            let workers = Atomic<Int>(0)
            calls.withUnsafeMutableBufferPointer { calls in
                pool.run(count) { index, worker in
                    calls[index] += 1
                    if worker < 0 || worker >= threads { workers.store(-1, ordering: .relaxed) }
                }
            }
            #expect(calls.allSatisfy { $0 == 1 })
            #expect(workers.load(ordering: .relaxed) == 0)
        }
    }

    /// Regions back to back, and with pauses after which the threads have gone to sleep.
    @Test func manyRegions() throws {
        let pool = try ComputePool(threads: 3)
        let sum = Atomic<Int>(0)
        var expected = 0
        for region in 0..<20000 {
            let count = 1 + region % 7
            pool.run(count) { index in sum.wrappingAdd(index + region, ordering: .relaxed) }
            expected += count * (count - 1) / 2 + count * region
            #expect(sum.load(ordering: .relaxed) == expected)
            // Long enough that the workers stop spinning and sleep.
            if region % 2000 == 0 { usleep(2000) }
        }
    }

    /// A slow body makes the caller wait asleep for the last worker.
    @Test func slowWorkers() throws {
        let pool = try ComputePool(threads: 4)
        for _ in 0..<20 {
            let done = Atomic<Int>(0)
            pool.run(4) { index in
                // Workers of unequal speed, on purpose.
                usleep(UInt32(index) * 500)
                done.wrappingAdd(1, ordering: .relaxed)
            }
            #expect(done.load(ordering: .relaxed) == 4)
        }
    }

    @Test func shutdownJoins() throws {
        for round in 0..<50 {
            let pool = try ComputePool(threads: 4, pinned: round % 2 == 0)
            if round % 3 == 0 { pool.run(8) { _ in } }
            pool.shutdown()
            pool.shutdown()
        }
        // Without an explicit shutdown too.
        for _ in 0..<50 { _ = try ComputePool(threads: 3) }
    }

    @Test func severalPoolsAtOnce() throws {
        let pools = try (0..<3).map { _ in try ComputePool(threads: 2) }
        let sum = Atomic<Int>(0)
        pools[0].run(10) { _ in sum.wrappingAdd(1, ordering: .relaxed) }
        pools[1].run(1) { _ in
            // Within another pool's region: allowed, as it is not the same pool.
            pools[2].run(10) { _ in sum.wrappingAdd(1, ordering: .relaxed) }
        }
        #expect(sum.load(ordering: .relaxed) == 20)
    }

    @Test func refusesBadThreadCounts() {
        #expect(throws: KernelError.self) { try ComputePool(threads: 0) }
        #expect(throws: KernelError.self) { try ComputePool(threads: -1) }
        #expect(throws: KernelError.self) { try ComputePool(threads: 257) }
    }

    @Test func nestedRunTraps() async {
        await #expect(processExitsWith: .failure) {
            let pool = try ComputePool(threads: 2)
            pool.run(2) { _ in pool.run(1) { _ in } }
        }
    }

    @Test func runAfterShutdownTraps() async {
        await #expect(processExitsWith: .failure) {
            let pool = try ComputePool(threads: 2)
            pool.shutdown()
            pool.run(1) { _ in }
        }
    }
}
