import CHostProcess
import Glibc
import HostProcess
import Testing

@Suite struct DescriptorBudgetTests {
    @Test(arguments: [256, 1024, 4096, 1 << 20]) func clientsLeaveRoomForAllElse(limit: Int) {
        let budget = DescriptorBudget(limit: limit)
        #expect(budget.problem == nil)
        for wanted in [1, 64, 4096, 1_000_000] {
            let clients = budget.clients(wanted: wanted)
            #expect(clients >= 1 && clients <= wanted)
            #expect(limit - clients >= 128 + (limit - 128) / 4)
        }
    }

    @Test func tooFewAreNamed() {
        #expect(DescriptorBudget(limit: 64).problem?.contains("64") == true)
        #expect(DescriptorBudget(limit: 0).clients(wanted: 10) == 0)
    }

    @Test func theSoftLimitIsRaised() {
        var before = rlimit()
        getrlimit(__rlimit_resource_t(7), &before)
        let soft = host_raise_descriptor_limit(UInt64(before.rlim_cur) + 1)
        #expect(soft >= before.rlim_cur)
        #expect(soft == min(before.rlim_cur + 1, before.rlim_max))
    }
}
