/* The handoff contract of docs/handoff.md: requests, a router, two prefill nodes, one decode node, and the lanes
 * between them. scripts/verify.py checks it exhaustively; docs/model.md says what stands for what in the Swift code.
 *
 * Control messages: a message that was sent may be delivered at any later time, any number of times, in any order,
 * or never. So the messages of a handoff are sets of bits that delivery does not clear; a delivery that would change
 * nothing is left out. LOSSES lets the network take messages out of those sets, for claims about what must happen:
 * then the retransmissions and repeated answers put them back.
 *
 * Every step goes forward, so every run ends, and what must happen at last is asserted where nothing more can
 * (process Judge), besides the LTL formula at the end.
 *
 * Faults are switched on by -D: CANCEL, CRASH, PAUSE, CUT_LANE, CUT_PREFILL, CUT_DECODE, ROUTER_CRASH, DECODE_CRASH,
 * HANG, DIGEST, STALL, LOSSES=n. Rules are removed by -DMUTANT_name.
 */

#define REQUESTS 2
#ifndef HANDOFFS            /* attempts of all requests together, 2 to 4 */
#define HANDOFFS 3
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef RECORDS             /* data records of one handoff; the completion record is one more */
#define RECORDS 1
#endif
#ifndef TOKENS              /* completion tokens of a request */
#define TOKENS 1
#endif
#ifndef LOSSES
#define LOSSES 0
#endif

#define PREFILLS 2
#define LANES 4             /* lane l is dialled by prefill node l % 2; 2 and 3 after 0 and 1 are gone */
#define NONE 15

/* LedgerRow.Phase */
#define R_NONE 0
#define R_RESERVING 1
#define R_PREFILLING 2
#define R_WRITTEN 3
#define R_DECODING 4
#define R_DRAINING 5
#define R_RECLAIMING 6
#define R_FENCING 7
#define R_CANCELLING 8
#define R_RELEASING 9
#define R_SETTLED 10
#define R_ORPHAN 11         /* its router is gone */

/* ReceivingHandoff.Phase. Unbinding is left at once: the driver asks the lane under the same lock. */
#define D_NONE 0
#define D_GRANTED 1
#define D_VERIFYING 2
#define D_SEALED 3
#define D_ENDING 4
#define D_DRAINING 5
#define D_FENCING 6
#define D_RECLAIMED 7       /* settled */
#define D_FINISHED 8        /* settled */
#define D_REFUSED 9         /* settled */
#define D_GONE 10           /* with its process */

/* SendingHandoff.Phase. Computing is writing with nothing posted: every event does the same to both. */
#define P_NONE 0
#define P_WRITING 1
#define P_COMPLETING 2
#define P_WRITTEN 3
#define P_DRAINING 4
#define P_SETTLED 5         /* posted == completed */
#define P_SETTLED_NOISY 6   /* the lane closed before all was acknowledged */
#define P_GONE 7            /* with its process */

/* LaneGate.State; completed lets in as little as idle does */
#define G_ABSENT 0
#define G_IDLE 1
#define G_BOUND 2
#define G_LANDING 3
#define G_CLOSED 4

/* The prefill node's end of a lane */
#define L_ABSENT 0
#define L_OPEN 1
#define L_STOPPING 2
#define L_CLOSED 3

/* An invariant of docs/handoff.md, by its number, which the checker prints. */
#define invariant(number, what) assert((what) || number == 0)

/* The path under a lane */
#define B_SILENT 1          /* cut, and the decode node is not told; the prefill node's keepalive notices */
#define B_RESET 2           /* cut, and either end will notice */

/* SlotPool.State; cached slots are in use by the prefix tree and not different here */
#define S_FREE 0
#define S_GRANTED 1
#define S_QUARANTINED 2
#define S_INUSE 3

/* Router to decode node */
#define RESERVE 1
#define D_CANCEL 2
#define RECLAIM 4
#define FENCE 8
/* Router to prefill node */
#define PREFILL 1
#define RELEASE 2
#define P_CANCEL 4
/* Decode node to router */
#define GRANTED 1
#define REFUSED 2
#define SEALED 4
#define RECLAIMED 8
#define FINISHED 16         /* whole */
#define ENDED 32            /* finished, cancelled on the way */
#define D_FAILED 64
/* Prefill node to router */
#define ACCEPTED 1
#define WRITTEN 2
#define DRAINED 4           /* posted == completed */
#define DRAINED_NOISY 8
#define P_FAILED 16

/* How an attempt ends for its request */
#define O_FINISHED 0
#define O_REFUSED 1
#define O_FAILED 2
#define O_CANCELLED 3

/* ---- the router ---- */
byte row[HANDOFFS];                 /* R_… */
byte request[HANDOFFS];
byte prefillOf[HANDOFFS];           /* prefill node */
bit ofRestarted[HANDOFFS];          /* its incarnation */
bit prefillSettled[HANDOFFS];
bit sealedSeen[HANDOFFS];
bit outcome[HANDOFFS];              /* outcomeDelivered */
bit accepted[HANDOFFS];
byte opened;                        /* attempts so far */
byte running[REQUESTS];             /* its attempt, or NONE */
byte delivered[REQUESTS];           /* tokens the client has */
byte speaker[REQUESTS];             /* ghost: attempt of the last token, or NONE */
byte ends[REQUESTS];                /* ghost: times it ended */
bit attached[PREFILLS] = 1;         /* the router counts on this prefill node… */
bit attachedInc[PREFILLS];          /* …in this incarnation */

/* ---- control messages ---- */
byte toD[HANDOFFS];                 /* to the decode node */
byte toP[HANDOFFS];                 /* to the prefill node */
byte fromD[HANDOFFS];
byte fromP[HANDOFFS];
byte tokens[HANDOFFS];              /* tokens on their way: bit per position */
byte losses = LOSSES;

/* ---- the decode node ---- */
byte dec[HANDOFFS];                 /* D_… */
byte slotOf[HANDOFFS];
byte laneOf[HANDOFFS];              /* of the grant */
byte generated[HANDOFFS];           /* next position */
bit completionDue[HANDOFFS];        /* the lane has the record, the node does not know yet */
byte slot[SLOTS];                   /* S_… */
byte owner[SLOTS];                  /* handoff, which stands for the generation: each is granted at most once */
byte user[LANES];                   /* ReceivingHandoffs.Lane */
bit closing[LANES];
byte gate[LANES];                   /* G_… */
byte gateOf[LANES];                 /* the handoff it is bound to, which stands for the epoch */
bit decodeKnowsRouter = 1;
bit decodeKnown = 1;                /* the router counts on the decode node */
bit decodeUp = 1;

/* ---- the prefill nodes ---- */
byte pre[HANDOFFS];                 /* P_… */
bit released[HANDOFFS];
byte laneEnd[LANES];                /* L_… */
bit laneInc[LANES];                 /* incarnation that dialled it */
bit up[PREFILLS] = 1;
bit incarnation[PREFILLS];
bit knowsRouter[PREFILLS] = 1;

/* ---- the fabric: records of a handoff, in order ---- */
byte posted[HANDOFFS];
byte landed[HANDOFFS];
byte broken[LANES];                 /* B_… */

hidden byte who;                    /* scratch inside one step */
hidden byte which;

/* ---- faults left ---- */
#ifdef CRASH
byte crashes = CRASH;
#endif
#ifdef PAUSE
byte pauses = 1;
#endif
bit frozen[PREFILLS];
#ifdef CUT_LANE
byte laneCuts = 1;
#endif
#ifdef CUT_PREFILL
byte prefillCuts = 1;
#endif
#ifdef CUT_DECODE
byte decodeCuts = 1;
#endif
#ifdef DECODE_CRASH
byte decodeCrashes = 1;
#endif
#ifdef ROUTER_CRASH
byte routerCrashes = 1;
bit decodeMissesRouter;             /* the decode node has not noticed yet */
bit prefillMissesRouter[PREFILLS];
#endif
#ifdef CANCEL
byte cancels = CANCEL;
#endif
#ifdef DIGEST
byte mismatches = 1;
#endif
#ifdef STALL
byte stalls = 1;
#endif

#if HANDOFFS > 3
#define EACH(what) what(0); what(1); what(2); what(3)
#define COMPLETION_DUE(l) (DUE(0, l) || DUE(1, l) || DUE(2, l) || DUE(3, l))
#elif HANDOFFS > 2
#define EACH(what) what(0); what(1); what(2)
#define COMPLETION_DUE(l) (DUE(0, l) || DUE(1, l) || DUE(2, l))
#else
#define EACH(what) what(0); what(1)
#define COMPLETION_DUE(l) (DUE(0, l) || DUE(1, l))
#endif
#define ROW_OPEN(h) (row[h] >= R_RESERVING && row[h] <= R_RELEASING)
#define D_OPEN(h) (dec[h] >= D_GRANTED && dec[h] <= D_FENCING)
#define D_QUARANTINE(h) (dec[h] == D_DRAINING || dec[h] == D_FENCING)
#define P_OPEN(h) (pre[h] >= P_WRITING && pre[h] <= P_DRAINING)
#define ALL (RECORDS + 1)
#define ALIVE(h) (up[prefillOf[h]] && incarnation[prefillOf[h]] == ofRestarted[h])
#define MINE(h) (ALIVE(h) && !frozen[prefillOf[h]])
#define HEARD(h) (MINE(h) && knowsRouter[prefillOf[h]])

/* ================================================================ the router's ledger: LedgerRow, HandoffLedger */

#define D_LIVE(h) (now.dec[h] >= D_GRANTED && now.dec[h] <= D_FENCING)
#define P_LIVE(h) (now.pre[h] >= P_WRITING && now.pre[h] <= P_DRAINING)
#define ANY (D_CANCEL | RECLAIM | FENCE)

/* Run at the end of every step: messages that can change nothing any more, and what is left of a handoff that
 * nobody can do anything about, are cleared. That only makes equal states equal. In C because it is in every step. */
c_code {
static void tidyOrders(int h) {
    int p = now.prefillOf[h];
    if ((now.dec[h] >= D_ENDING && now.dec[h] != D_DRAINING) || !now.decodeUp) now.toD[h] = 0;
    else if (now.dec[h] == D_DRAINING) now.toD[h] &= RECLAIM | FENCE;
    else if ((now.dec[h] == D_VERIFYING || now.dec[h] == D_SEALED) && (now.toD[h] & ANY)) now.toD[h] = FENCE;
    else if (now.dec[h] != D_NONE) now.toD[h] &= ANY;
    if (now.pre[h] >= P_DRAINING || !now.up[p] || now.incarnation[p] != now.ofRestarted[h]) now.toP[h] = 0;
    else if (now.pre[h] == P_COMPLETING && now.released[h]) now.toP[h] &= P_CANCEL;
    else if (now.pre[h] == P_WRITTEN) now.toP[h] = (now.toP[h] & (RELEASE | P_CANCEL)) ? RELEASE : 0;
    else if (now.pre[h] != P_NONE) now.toP[h] &= RELEASE | P_CANCEL;
    if (now.pre[h] >= P_WRITTEN) now.released[h] = 0;
}

static void tidyAnswers(int h) {
    if (now.row[h] == R_ORPHAN || (now.row[h] >= R_RELEASING && !D_LIVE(h))) now.fromD[h] = 0;
    else if (now.row[h] >= R_DRAINING && now.row[h] <= R_CANCELLING)
        now.fromD[h] &= REFUSED | SEALED | RECLAIMED | FINISHED | ENDED;
    else if (now.row[h] >= R_PREFILLING && now.row[h] <= R_DECODING) now.fromD[h] &= ~(GRANTED | REFUSED);
    if (now.sealedSeen[h]) now.fromD[h] &= ~SEALED;
    if (now.row[h] == R_ORPHAN || (now.row[h] == R_SETTLED && !P_LIVE(h)) ||
        (now.row[h] > R_RESERVING && now.prefillSettled[h] && !P_LIVE(h))) now.fromP[h] = 0;
    else if (now.row[h] >= R_DECODING && now.row[h] <= R_RELEASING && !now.prefillSettled[h])
        now.fromP[h] &= DRAINED | DRAINED_NOISY;
    else if (now.row[h] == R_WRITTEN) now.fromP[h] &= ~(WRITTEN | ACCEPTED);
    if (now.outcome[h]) now.accepted[h] = 0;
#ifndef MUTANT_OLD_TOKENS
    if (now.outcome[h]) now.tokens[h] = 0;
#endif
}

static void tidyRest(int h) {
    int l = now.laneOf[h];
#ifdef MUTANT_NO_SETTLE
    if (now.outcome[h] && now.row[h] >= R_RESERVING && now.row[h] <= R_RELEASING) now.row[h] = R_SETTLED;
#endif
    int late = now.posted[h] > now.landed[h] && now.gate[l] != G_CLOSED && now.broken[l] != B_SILENT;
    if (now.pre[h] == P_SETTLED_NOISY && now.prefillSettled[h]) now.pre[h] = P_SETTLED;
    if (!P_LIVE(h) && !late && now.dec[h] != D_GRANTED && now.dec[h] != D_VERIFYING && !now.completionDue[h])
        now.posted[h] = now.landed[h] = 0;
    if ((now.row[h] == R_SETTLED || now.row[h] == R_ORPHAN) && !D_LIVE(h) && !P_LIVE(h) && now.posted[h] == 0 &&
        !now.completionDue[h] && (now.dec[h] != D_NONE || !(now.toD[h] & RESERVE)) &&
        (now.pre[h] != P_NONE || !(now.toP[h] & PREFILL))) {
        now.toD[h] = now.toP[h] = now.fromD[h] = now.fromP[h] = 0;
        now.sealedSeen[h] = now.accepted[h] = 0;
        now.prefillSettled[h] = now.outcome[h] = 1;
        now.slotOf[h] = now.laneOf[h] = now.prefillOf[h] = now.ofRestarted[h] = now.generated[h] = 0;
        now.dec[h] = D_GONE;
        now.pre[h] = P_GONE;
        now.row[h] = R_SETTLED;
    }
}

static void tidyAll(void) {
    int h;
    for (h = 0; h < HANDOFFS; h++) {
        tidyOrders(h);
        tidyAnswers(h);
        tidyRest(h);
    }
}
}
#define tidy c_code { tidyAll(); }

/* RoutingCore.conclude */
inline endRequest(r) {
    ends[r]++;
    invariant(7, ends[r] == 1);
    running[r] = NONE
}

/* LedgerRow.deliver, then RoutingCore.outcomeReached */
inline deliver(h, what) {
    if
    :: outcome[h] -> skip
    :: else ->
        outcome[h] = 1;
        if
        :: running[request[h]] != h -> skip
        :: else ->
            if
            :: what == O_FAILED || what == O_REFUSED ->
                if
                :: opened == HANDOFFS || delivered[request[h]] == TOKENS -> endRequest(request[h])
                :: else -> running[request[h]] = NONE   /* another attempt */
                fi
            :: else -> endRequest(request[h])
            fi
        fi
    fi
}

inline endSource(h) {
    if
    :: prefillSettled[h] -> skip
    :: !prefillSettled[h] && sealedSeen[h] -> toP[h] = toP[h] | RELEASE
    :: !prefillSettled[h] && !sealedSeen[h] -> toP[h] = toP[h] | P_CANCEL
    fi
}

inline decodeSettled(h) {
    if
    :: prefillSettled[h] -> row[h] = R_SETTLED
    :: else -> row[h] = R_RELEASING; endSource(h)
    fi
}

/* The prefill node's part of an abort is over. */
inline sourceEnded(h, quiet) {
    if
    :: quiet -> row[h] = R_RECLAIMING; toD[h] = toD[h] | RECLAIM
    :: else -> row[h] = R_FENCING; toD[h] = toD[h] | FENCE
    fi
}

inline abort(h) {
    if
    :: row[h] == R_RESERVING -> row[h] = R_RECLAIMING; toD[h] = toD[h] | RECLAIM
    :: (row[h] == R_PREFILLING || row[h] == R_WRITTEN) && prefillSettled[h] -> sourceEnded(h, true)
    :: (row[h] == R_PREFILLING || row[h] == R_WRITTEN) && !prefillSettled[h] ->
        row[h] = R_DRAINING; toP[h] = toP[h] | P_CANCEL; toD[h] = toD[h] | D_CANCEL
    :: row[h] == R_DECODING -> row[h] = R_CANCELLING; toD[h] = toD[h] | D_CANCEL
    :: else -> skip
    fi
}

/* LedgerRow.prefillLost */
inline rowLostPrefill(h) {
    if
    :: row[h] == R_RESERVING -> prefillSettled[h] = 1; deliver(h, O_FAILED); abort(h)
    :: row[h] == R_PREFILLING -> prefillSettled[h] = 1; deliver(h, O_FAILED); sourceEnded(h, false)
    :: row[h] == R_DRAINING -> prefillSettled[h] = 1; sourceEnded(h, false)
    :: row[h] == R_RELEASING -> prefillSettled[h] = 1; row[h] = R_SETTLED
    :: row[h] == R_WRITTEN || row[h] == R_DECODING || row[h] == R_RECLAIMING || row[h] == R_FENCING ||
       row[h] == R_CANCELLING -> prefillSettled[h] = 1
    :: else -> skip
    fi
}

/* LedgerRow.decodeLost */
inline rowLostDecode(h) {
    if
    :: !ROW_OPEN(h) || row[h] == R_RELEASING -> skip
    :: else -> deliver(h, O_FAILED); decodeSettled(h)
    fi
}

#define AT_D(h) (decodeKnown)

/* LedgerRow: every message of a node and every deadline. Message bits are looked at where they change something. */
proctype Row(byte h) {
end:
    do
    /* ---- the decode node ---- */
    :: d_step { (fromD[h] & GRANTED) && row[h] == R_RESERVING ->
        row[h] = R_PREFILLING; prefillSettled[h] = 0; toP[h] = toP[h] | PREFILL; tidy }
    :: d_step { (fromD[h] & GRANTED) && row[h] == R_SETTLED && !(toD[h] & FENCE) && D_OPEN(h) ->
        toD[h] = toD[h] | FENCE; tidy }                       /* a grant nobody waits for */
    :: d_step { (fromD[h] & REFUSED) && row[h] == R_RESERVING ->
        deliver(h, O_REFUSED); decodeSettled(h); tidy }
    :: d_step { (fromD[h] & REFUSED) && row[h] == R_RECLAIMING -> decodeSettled(h); tidy }
    :: d_step { (fromD[h] & SEALED) && !sealedSeen[h] &&
                (row[h] == R_PREFILLING || row[h] == R_WRITTEN) ->
        sealedSeen[h] = 1; row[h] = R_DECODING; endSource(h); tidy }
    :: d_step { (fromD[h] & SEALED) && !sealedSeen[h] &&
                (row[h] == R_DRAINING || row[h] == R_RECLAIMING || row[h] == R_FENCING) ->
        sealedSeen[h] = 1; row[h] = R_CANCELLING; toD[h] = toD[h] | D_CANCEL; endSource(h); tidy }
    :: d_step { (fromD[h] & SEALED) && row[h] == R_SETTLED && D_OPEN(h) && !(toD[h] & D_CANCEL) ->
        toD[h] = toD[h] | D_CANCEL; tidy }
    :: d_step { (fromD[h] & FINISHED) &&
                (row[h] == R_PREFILLING || row[h] == R_WRITTEN || row[h] == R_DECODING) ->
        sealedSeen[h] = 1;
        if
        :: delivered[request[h]] == TOKENS -> deliver(h, O_FINISHED)
        :: else -> deliver(h, O_FAILED)                 /* tokens were lost at the end */
        fi;
        decodeSettled(h); tidy }
    :: d_step { (fromD[h] & ENDED) &&
                (row[h] == R_PREFILLING || row[h] == R_WRITTEN || row[h] == R_DECODING) ->
        sealedSeen[h] = 1; deliver(h, O_FAILED); decodeSettled(h); tidy }
    :: d_step { (fromD[h] & (FINISHED | ENDED)) &&
                (row[h] == R_DRAINING || row[h] == R_RECLAIMING || row[h] == R_FENCING || row[h] == R_CANCELLING) ->
        sealedSeen[h] = 1; decodeSettled(h); tidy }
    :: d_step { (fromD[h] & RECLAIMED) &&
                (row[h] == R_DRAINING || row[h] == R_RECLAIMING || row[h] == R_FENCING || row[h] == R_CANCELLING) ->
        decodeSettled(h); tidy }
    :: d_step { (fromD[h] & RECLAIMED) &&
                (row[h] == R_RESERVING || row[h] == R_PREFILLING || row[h] == R_WRITTEN || row[h] == R_DECODING) ->
        deliver(h, O_FAILED); decodeSettled(h); tidy }
    :: d_step { (fromD[h] & D_FAILED) && !outcome[h] &&
                (row[h] == R_RESERVING || row[h] == R_PREFILLING || row[h] == R_WRITTEN || row[h] == R_DECODING) ->
        deliver(h, O_FAILED); abort(h); tidy }
    /* LedgerRow.accept: tokens at a position */
    :: d_step { tokens[h] != 0 &&
#ifndef MUTANT_OLD_TOKENS
                !outcome[h] && (row[h] == R_PREFILLING || row[h] == R_WRITTEN || row[h] == R_DECODING) &&
#endif
                ends[request[h]] == 0 && (tokens[h] & (1 << delivered[request[h]])) ->
        /* no attempt speaks after a later one; the position is the next one by the guard */
        invariant(5, speaker[request[h]] == NONE || speaker[request[h]] <= h);
        speaker[request[h]] = h;
        tokens[h] = tokens[h] & ~(1 << delivered[request[h]]);
        delivered[request[h]]++; tidy }
#if TOKENS > 1
    :: d_step { !outcome[h] && (row[h] == R_PREFILLING || row[h] == R_WRITTEN || row[h] == R_DECODING) &&
                (tokens[h] >> (delivered[request[h]] + 1)) != 0 && !(tokens[h] & (1 << delivered[request[h]])) ->
        deliver(h, O_FAILED); abort(h); tidy }                /* a gap */
#endif
    /* ---- the prefill node ---- */
    :: d_step { (fromP[h] & ACCEPTED) && row[h] == R_PREFILLING && !accepted[h] -> accepted[h] = 1; tidy }
    :: d_step { (fromP[h] & WRITTEN) && row[h] == R_PREFILLING -> row[h] = R_WRITTEN; tidy }
    :: d_step { (fromP[h] & (DRAINED | DRAINED_NOISY)) && !prefillSettled[h] &&
                ROW_OPEN(h) && row[h] != R_RESERVING ->
        prefillSettled[h] = 1;
        if
        :: row[h] == R_DRAINING -> sourceEnded(h, !(fromP[h] & DRAINED_NOISY))
        :: row[h] == R_PREFILLING -> deliver(h, O_FAILED); sourceEnded(h, !(fromP[h] & DRAINED_NOISY))
        :: row[h] == R_RELEASING -> row[h] = R_SETTLED
        :: else -> skip
        fi; tidy }
    :: d_step { (fromP[h] & WRITTEN) && row[h] == R_SETTLED && P_OPEN(h) && !(toP[h] & RELEASE) ->
        toP[h] = toP[h] | RELEASE; tidy }
    :: d_step { (fromP[h] & P_FAILED) && !outcome[h] && (row[h] == R_PREFILLING || row[h] == R_WRITTEN) ->
        deliver(h, O_FAILED); abort(h); tidy }
    /* ---- deadlines: any time ---- */
#ifdef TIMEOUTS
    :: d_step { row[h] == R_RESERVING -> deliver(h, O_FAILED); abort(h); tidy }
    :: d_step { row[h] == R_WRITTEN && !outcome[h] -> 
        deliver(h, O_FAILED); sourceEnded(h, false); endSource(h); tidy }
#endif
#ifndef MUTANT_NO_DRAIN_BUDGET
    :: d_step { row[h] == R_DRAINING -> sourceEnded(h, false); tidy }
#endif
    /* RoutingCore.failStalled: where nothing else would end it, and with STALL any time */
#ifdef STALL
    :: d_step { stalls > 0 && (row[h] == R_PREFILLING || row[h] == R_DECODING) && !outcome[h] ->
        stalls--; deliver(h, O_FAILED); abort(h); tidy }
#elif defined(HANG)
    :: d_step { row[h] == R_PREFILLING && frozen[prefillOf[h]] && !outcome[h] -> deliver(h, O_FAILED); abort(h); tidy }
#elif defined(CUT_LANE)
    :: d_step { row[h] == R_PREFILLING && broken[laneOf[h]] && !outcome[h] -> deliver(h, O_FAILED); abort(h); tidy }
#endif
#ifdef CANCEL
    :: d_step { cancels > 0 && ROW_OPEN(h) && running[request[h]] == h && !outcome[h] ->
        cancels--; deliver(h, O_CANCELLED); abort(h); tidy }
#endif
    od
}

/* ================================================================ the decode node: ReceivingHandoff, ReceivingHandoffs */

inline sayD(h, message) {
    if
    :: decodeKnowsRouter && decodeKnown -> fromD[h] = fromD[h] | message
    :: else
    fi
}

inline leaveLane(h) {
    if
    :: user[laneOf[h]] == h -> user[laneOf[h]] = NONE
    :: else
    fi
}

/* ReceivingHandoff.free, SlotPool.recycle: the one place where quarantined slots become free */
inline recycle(h) {
    slot[slotOf[h]] = S_FREE;
    owner[slotOf[h]] = NONE;
    dec[h] = D_RECLAIMED;
    leaveLane(h);
    sayD(h, RECLAIMED)
}

/* ReceivingAction.fenceLane: answered when the receiving thread has left (process Lane), which it may have done before */
inline fence(h) {
    slot[slotOf[h]] = S_QUARANTINED;
    dec[h] = D_FENCING;
    if
    :: gate[laneOf[h]] == G_CLOSED ->
#ifdef MUTANT_FENCE_GONE
        skip
#else
        recycle(h)
#endif
    :: else -> closing[laneOf[h]] = 1
    fi;
#ifdef MUTANT_FENCE_EARLY
    recycle(h);
#endif
}

inline cancelSequence(h) {
    dec[h] = D_ENDING
}

/* LaneGate.unbind: false while a record of this handoff is landing */
inline unbind(h) {
#ifdef MUTANT_NO_UNBIND
    recycle(h);
#else
    if
    :: gate[laneOf[h]] == G_LANDING && gateOf[laneOf[h]] == h -> fence(h)
    :: else ->
        if
        :: gateOf[laneOf[h]] == h && gate[laneOf[h]] != G_CLOSED -> gate[laneOf[h]] = G_IDLE; gateOf[laneOf[h]] = NONE
        :: else
        fi;
        recycle(h)
    fi
#endif
}

/* ReceivingHandoff.abort(.fence) */
inline abortFence(h) {
    if
    :: dec[h] == D_GRANTED || dec[h] == D_DRAINING -> fence(h)
    :: dec[h] == D_VERIFYING -> recycle(h)
    :: dec[h] == D_SEALED -> cancelSequence(h)
    :: else
    fi
}

#ifdef MUTANT_LANE_SHARED
#define LANE_FREE(l) (user[l] == NONE || D_QUARANTINE(user[l]))
#else
#define LANE_FREE(l) (user[l] == NONE)
#endif
#define IDLE(l, h) (gate[l] != G_ABSENT && gate[l] != G_CLOSED && LANE_FREE(l) && !closing[l] && \
    laneInc[l] == ofRestarted[h])

/* SlotPool.grant, ReceivingHandoffs.reserve, LaneGate.bind */
inline grant(h, s, l) {
    assert(slot[s] == S_FREE && owner[s] == NONE);
    slot[s] = S_GRANTED; owner[s] = h; slotOf[h] = s;
    laneOf[h] = l; user[l] = h;
#ifndef MUTANT_LANE_SHARED
    assert(gate[l] == G_IDLE);
#endif
    gate[l] = G_BOUND; gateOf[l] = h;
    dec[h] = D_GRANTED;
    sayD(h, GRANTED)
}

inline pickSlot(h, l) {
    if
    :: slot[0] == S_FREE -> grant(h, 0, l)
#if SLOTS > 1
    :: slot[1] == S_FREE -> grant(h, 1, l)
#endif
    fi
}

#if SLOTS == 1
#define NO_SLOT (slot[0] != S_FREE)
#else
#define NO_SLOT (slot[0] != S_FREE && slot[1] != S_FREE)
#endif

#ifdef MUTANT_SEAL_EARLY
#define SEALABLE(h) (dec[h] == D_VERIFYING || dec[h] == D_GRANTED)
#else
#define SEALABLE(h) (dec[h] == D_VERIFYING)
#endif
#define ORDERS(h) (decodeUp && decodeKnowsRouter && row[h] != R_NONE)

proctype Decode(byte h) {
end:
    do
    /* ---- the router ---- */
    :: atomic { ORDERS(h) && (toD[h] & RESERVE) && dec[h] == D_NONE ->
        if
        :: NO_SLOT || (!IDLE(prefillOf[h], h) && !IDLE(prefillOf[h] + 2, h)) ->
            sayD(h, REFUSED);
#ifdef MUTANT_FORGET_REFUSED
            toD[h] = toD[h] | RESERVE
#else
            dec[h] = D_REFUSED
#endif
        :: !NO_SLOT && IDLE(prefillOf[h], h) -> pickSlot(h, prefillOf[h])
        :: !NO_SLOT && !IDLE(prefillOf[h], h) && IDLE(prefillOf[h] + 2, h) -> pickSlot(h, prefillOf[h] + 2)
        fi; tidy }
    :: d_step { ORDERS(h) && (toD[h] & (D_CANCEL | RECLAIM | FENCE)) && dec[h] == D_NONE ->
        dec[h] = D_RECLAIMED; sayD(h, RECLAIMED); tidy }      /* it overtook its Reserve */
    :: d_step { ORDERS(h) && (toD[h] & (D_CANCEL | RECLAIM | FENCE)) && dec[h] == D_REFUSED &&
                !(fromD[h] & RECLAIMED) && ROW_OPEN(h) -> sayD(h, RECLAIMED); tidy }
    :: d_step { ORDERS(h) && (toD[h] & D_CANCEL) && dec[h] == D_GRANTED ->
        slot[slotOf[h]] = S_QUARANTINED; dec[h] = D_DRAINING; tidy }
    :: d_step { ORDERS(h) && (toD[h] & (D_CANCEL | RECLAIM | FENCE)) && dec[h] == D_VERIFYING -> recycle(h); tidy }
    :: d_step { ORDERS(h) && (toD[h] & (D_CANCEL | RECLAIM | FENCE)) && dec[h] == D_SEALED -> cancelSequence(h); tidy }
    :: d_step { ORDERS(h) && (toD[h] & RECLAIM) && (dec[h] == D_GRANTED || dec[h] == D_DRAINING) -> unbind(h); tidy }
    :: d_step { ORDERS(h) && (toD[h] & FENCE) && (dec[h] == D_GRANTED || dec[h] == D_DRAINING) -> fence(h); tidy }
    /* ---- deadline drainBudget: any time ---- */
#ifndef MUTANT_NO_DRAIN_BUDGET
    :: d_step { decodeUp && dec[h] == D_DRAINING ->
#ifdef MUTANT_FREE_ON_TIMEOUT
        recycle(h)
#else
        fence(h)
#endif
        ; tidy }
#endif
    /* ---- the lane: a completion record, at once or after the lane has been given away ---- */
    :: d_step { decodeUp && completionDue[h] && dec[h] == D_GRANTED ->
        completionDue[h] = 0; dec[h] = D_VERIFYING; tidy }
    :: d_step { decodeUp && completionDue[h] && dec[h] == D_DRAINING -> completionDue[h] = 0; recycle(h); tidy }
    :: d_step { decodeUp && completionDue[h] && dec[h] != D_GRANTED && dec[h] != D_DRAINING ->
        completionDue[h] = 0; tidy }
    /* ---- digestsVerified, SlotPool.seal ---- */
    :: d_step { decodeUp && SEALABLE(h) ->
        invariant(2, landed[h] >= RECORDS);
        slot[slotOf[h]] = S_INUSE;
        dec[h] = D_SEALED;
        generated[h] = delivered[request[h]];           /* in the Reserve */
        leaveLane(h);
        sayD(h, SEALED); tidy }
#ifdef DIGEST
    :: d_step { decodeUp && mismatches > 0 && dec[h] == D_VERIFYING -> mismatches--; sayD(h, D_FAILED); fence(h); tidy }
#endif
    /* ---- the engine: every step reads the slot ---- */
    :: d_step { decodeUp && dec[h] == D_SEALED && generated[h] < TOKENS ->
        /* what is read is sealed, and so nobody may write it (invariant 1) */
        invariant(2, owner[slotOf[h]] == h && slot[slotOf[h]] == S_INUSE);
        if
        :: decodeKnowsRouter && decodeKnown -> tokens[h] = tokens[h] | (1 << generated[h])
        :: else
        fi;
        generated[h]++; tidy }
    :: d_step { decodeUp && dec[h] == D_SEALED && generated[h] == TOKENS ->
        slot[slotOf[h]] = S_FREE; owner[slotOf[h]] = NONE; dec[h] = D_FINISHED; sayD(h, FINISHED); tidy }
    :: d_step { decodeUp && dec[h] == D_ENDING ->
        slot[slotOf[h]] = S_FREE; owner[slotOf[h]] = NONE; dec[h] = D_FINISHED; sayD(h, ENDED); tidy }
    od
}

/* ================================================================ a prefill node: SendingHandoff, SendingHandoffs */

inline sayP(h, message) {
    if
    :: knowsRouter[prefillOf[h]] && attached[prefillOf[h]] -> fromP[h] = fromP[h] | message
    :: else
    fi
}

/* A write that may still run reads its source; one whose lane is closed at this end runs no more. */
#define WRITE_RUNS(h) (landed[h] < posted[h] && landed[h] < RECORDS && laneEnd[laneOf[h]] != L_CLOSED)
inline unpin(h) {
    invariant(4, !WRITE_RUNS(h))
}

/* SendingHandoff.settle: the one place where source pages are unpinned */
inline settle(h) {
    unpin(h); pre[h] = P_SETTLED; sayP(h, DRAINED)
}
inline settleNoisy(h) {
    unpin(h); pre[h] = P_SETTLED_NOISY; sayP(h, DRAINED_NOISY)
}

/* SendingHandoff.stop: cancel, a lost router, a failed computation */
inline stop(h) {
    if
#ifdef MUTANT_DRAINED_EARLY
    :: pre[h] == P_WRITING || pre[h] == P_COMPLETING -> settle(h)
#else
    :: pre[h] == P_WRITING && posted[h] == 0 -> settle(h)
    :: pre[h] == P_WRITING && posted[h] > 0 -> pre[h] = P_DRAINING
    :: pre[h] == P_COMPLETING -> pre[h] = P_DRAINING
#endif
    :: pre[h] == P_WRITTEN -> settle(h)
    :: else
    fi
}

/* SendingHandoffs.refusal: a handoff may start behind one that only awaits its last acknowledgement */
#define WRITES_ON(o, l) (o < HANDOFFS && pre[o] == P_WRITING && laneOf[o] == l && MINE(o))
#if HANDOFFS > 3
#define LANE_BUSY(l) (WRITES_ON(0, l) || WRITES_ON(1, l) || WRITES_ON(2, l) || WRITES_ON(3, l))
#elif HANDOFFS > 2
#define LANE_BUSY(l) (WRITES_ON(0, l) || WRITES_ON(1, l) || WRITES_ON(2, l))
#else
#define LANE_BUSY(l) (WRITES_ON(0, l) || WRITES_ON(1, l))
#endif

/* What the decode node has acknowledged of it, and the lane brings here. An acknowledgement may come at any time
 * after the landing, while the lane is open here. */
#define LANE_UP(h) ((laneEnd[laneOf[h]] == L_OPEN || laneEnd[laneOf[h]] == L_STOPPING) && !broken[laneOf[h]])
#ifdef MUTANT_OLD_ACK
#define OTHER(o, h) (o != h && laneOf[o] == laneOf[h] && prefillOf[o] == prefillOf[h] && landed[o] >= posted[h] && \
    (pre[o] == P_COMPLETING || pre[o] == P_DRAINING))
#if HANDOFFS > 2
#define ACKNOWLEDGED(h) (LANE_UP(h) && (landed[h] >= posted[h] || OTHER(0, h) || OTHER(1, h) || OTHER(2, h)))
#else
#define ACKNOWLEDGED(h) (LANE_UP(h) && (landed[h] >= posted[h] || OTHER(0, h) || OTHER(1, h)))
#endif
#else
#define ACKNOWLEDGED(h) (LANE_UP(h) && landed[h] >= posted[h])
#endif

proctype Prefill(byte h) {
end:
    do
    /* ---- the router ---- */
    :: d_step { HEARD(h) && (toP[h] & PREFILL) && pre[h] == P_NONE ->
        if
        :: (laneEnd[laneOf[h]] == L_OPEN || laneEnd[laneOf[h]] == L_STOPPING) && !LANE_BUSY(laneOf[h]) ->
            pre[h] = P_WRITING;
#if LOSSES > 0
            sayP(h, ACCEPTED)
#endif
        :: else -> sayP(h, P_FAILED); settle(h)
        fi; tidy }
    :: d_step { HEARD(h) && (toP[h] & P_CANCEL) &&
                (pre[h] == P_WRITING || pre[h] == P_COMPLETING || pre[h] == P_WRITTEN) ->
        stop(h); tidy }
    :: d_step { HEARD(h) && (toP[h] & P_CANCEL) && pre[h] == P_NONE -> settle(h); tidy }
    :: d_step { HEARD(h) && (toP[h] & RELEASE) && (pre[h] == P_WRITING || pre[h] == P_WRITTEN) -> stop(h); tidy }
    :: d_step { HEARD(h) && (toP[h] & RELEASE) && pre[h] == P_COMPLETING && !released[h] -> released[h] = 1; tidy }
    :: d_step { HEARD(h) && (toP[h] & RELEASE) && pre[h] == P_NONE && !(fromP[h] & DRAINED) -> sayP(h, DRAINED); tidy }
    /* ---- the engine: pages are ready, and posted ---- */
    :: d_step { MINE(h) && pre[h] == P_WRITING ->
        if
        :: posted[h] < RECORDS -> posted[h]++
        :: posted[h] == RECORDS -> posted[h] = ALL; pre[h] = P_COMPLETING
        fi;
#ifdef MUTANT_UNPIN_EARLY
        if
        :: pre[h] == P_COMPLETING -> unpin(h)
        :: else
        fi
#endif
        ; tidy }
    /* ---- the lane ---- */
    :: d_step { MINE(h) && pre[h] == P_COMPLETING && ACKNOWLEDGED(h) ->
        sayP(h, WRITTEN);
        if
        :: released[h] -> settle(h)
        :: else -> pre[h] = P_WRITTEN
        fi; tidy }
    :: d_step { MINE(h) && pre[h] == P_DRAINING && ACKNOWLEDGED(h) -> settle(h); tidy }
    /* deadline laneDrain: any time */
    :: d_step { MINE(h) && pre[h] == P_DRAINING && laneEnd[laneOf[h]] == L_OPEN ->
        laneEnd[laneOf[h]] = L_STOPPING; tidy }
    od
}

/* ================================================================ the lanes: SendLane, LaneGate, ReceiveLane */

/* ReceivingHandoff.laneClosed: the receiving thread has left the slab */
inline closedD(h) {
    if
    :: dec[h] == D_GRANTED -> sayD(h, D_FAILED); recycle(h)
    :: dec[h] == D_DRAINING || dec[h] == D_FENCING -> recycle(h)
    :: else
    fi
}

inline laneLeft(l) {
    gate[l] = G_CLOSED; gateOf[l] = NONE; closing[l] = 0;
#ifdef MUTANT_LANE_SHARED
#define closedShared(h) if :: laneOf[h] == l -> closedD(h) :: else fi
    EACH(closedShared);
    user[l] = NONE
#else
    who = user[l]; user[l] = NONE;
    if
    :: who != NONE -> closedD(who)
    :: else
    fi
#endif
}

/* SendingHandoff.laneClosed: the sending thread has left the slab. Whether the last acknowledgements came before
 * that is open. */
inline closedP(h, l) {
    if
    :: laneOf[h] == l && prefillOf[h] == l % 2 &&
       (pre[h] == P_WRITING || pre[h] == P_COMPLETING || pre[h] == P_DRAINING) ->
        if
        :: pre[h] != P_DRAINING -> sayP(h, P_FAILED)
        :: else
        fi;
        if
        :: posted[h] == 0 || landed[h] >= RECORDS || landed[h] >= posted[h] -> settle(h)
        :: posted[h] > 0 -> settleNoisy(h)
        fi
    :: else
    fi
}

#define DUE(h, l) (completionDue[h] && laneOf[h] == l)

/* The records of one handoff on its lane. The sender reads the source pages when it sends, the receiver writes the
 * slot when they land. No order is taken for granted between the records of two handoffs. */
proctype Records(byte h) {
end:
    do
    /* a header arrives: LaneGate.enter, expectCompletion and complete */
    :: d_step { landed[h] < posted[h] && gate[laneOf[h]] != G_LANDING && gate[laneOf[h]] != G_CLOSED &&
                gate[laneOf[h]] != G_ABSENT && !broken[laneOf[h]] ->
        if
        :: gate[laneOf[h]] == G_BOUND &&
#ifdef MUTANT_LANE_SHARED
           true ->
#else
           gateOf[laneOf[h]] == h ->
#endif
            if
            :: landed[h] < RECORDS -> gate[laneOf[h]] = G_LANDING; gateOf[laneOf[h]] = h
            :: else ->
                landed[h]++; gate[laneOf[h]] = G_IDLE; gateOf[laneOf[h]] = NONE;
#ifdef MUTANT_LANE_SHARED
                completionDue[user[laneOf[h]]] = 1
#else
                completionDue[h] = 1
#endif
            fi
        :: else -> which = laneOf[h]; laneLeft(which)   /* a stale write is rejected */
        fi; tidy }
    /* the bytes land, LaneGate.leave */
    :: d_step { gate[laneOf[h]] == G_LANDING && gateOf[laneOf[h]] == h ->
        invariant(1, owner[slotOf[h]] == h && (slot[slotOf[h]] == S_GRANTED || slot[slotOf[h]] == S_QUARANTINED));
        landed[h]++;
        gate[laneOf[h]] = G_BOUND; tidy }
    od
}

/* One connection. The receiving thread leaves in the middle of a record too, but not while it reports a completion. */
proctype Lane(byte l) {
#define closedOnL(h) closedP(h, l)
end:
    do
    :: d_step { gate[l] != G_ABSENT && gate[l] != G_CLOSED && !COMPLETION_DUE(l) &&
                (closing[l] || (laneEnd[l] == L_CLOSED && broken[l] != B_SILENT) || broken[l] == B_RESET) ->
        laneLeft(l); tidy }
    :: atomic { (laneEnd[l] == L_OPEN || laneEnd[l] == L_STOPPING) && !frozen[l % 2] &&
                (laneEnd[l] == L_STOPPING || gate[l] == G_CLOSED && broken[l] != B_SILENT || broken[l]) ->
        laneEnd[l] = L_CLOSED; EACH(closedOnL); tidy }
    :: atomic { l >= PREFILLS && laneEnd[l] == L_ABSENT && laneEnd[l - PREFILLS] == L_CLOSED && up[l % 2] &&
                !frozen[l % 2] && decodeUp && opened < HANDOFFS ->
        laneEnd[l] = L_OPEN; laneInc[l] = incarnation[l % 2]; gate[l] = G_IDLE; gateOf[l] = NONE }
    od
}

/* ================================================================ requests, faults, and what must hold at the end */

inline open(r, p) {
    row[opened] = R_RESERVING;
    request[opened] = r; running[r] = opened;
    prefillOf[opened] = p; ofRestarted[opened] = attachedInc[p];
    prefillSettled[opened] = 1;
    toD[opened] = toD[opened] | RESERVE;
    opened++
}

/* Requests are alike, and so are prefill nodes: the first attempt is of request 0 on node 0. */
proctype Requests(byte r) {
end:
    do
    :: atomic { opened < HANDOFFS && running[r] == NONE && ends[r] == 0 && decodeKnown && attached[0] &&
                (opened > 0 || r == 0) -> open(r, 0) }
    :: atomic { opened < HANDOFFS && running[r] == NONE && ends[r] == 0 && decodeKnown && attached[1] &&
                opened > 0 -> open(r, 1) }
    /* no nodes, or no attempts left */
    :: atomic { running[r] == NONE && ends[r] == 0 &&
                (opened == HANDOFFS || !decodeKnown || (!attached[0] && !attached[1])) -> endRequest(r) }
    od
}

#if LOSSES > 0
/* The network loses messages; LedgerRow.unanswered says them again; a node asked again, or asked with Query, repeats
 * its last answer. */
proctype Network(byte h) {
end:
    do
    :: atomic { losses > 0 && toD[h] != 0 ->
        losses--;
        if
        :: (toD[h] & RESERVE) -> toD[h] = toD[h] & ~RESERVE
        :: (toD[h] & D_CANCEL) -> toD[h] = toD[h] & ~D_CANCEL
        :: (toD[h] & RECLAIM) -> toD[h] = toD[h] & ~RECLAIM
        :: (toD[h] & FENCE) -> toD[h] = toD[h] & ~FENCE
        fi; tidy }
    :: atomic { losses > 0 && toP[h] != 0 ->
        losses--;
        if
        :: (toP[h] & PREFILL) -> toP[h] = toP[h] & ~PREFILL
        :: (toP[h] & RELEASE) -> toP[h] = toP[h] & ~RELEASE
        :: (toP[h] & P_CANCEL) -> toP[h] = toP[h] & ~P_CANCEL
        fi; tidy }
    :: atomic { losses > 0 && fromD[h] != 0 ->
        losses--;
        if
        :: (fromD[h] & GRANTED) -> fromD[h] = fromD[h] & ~GRANTED
        :: (fromD[h] & REFUSED) -> fromD[h] = fromD[h] & ~REFUSED
        :: (fromD[h] & SEALED) -> fromD[h] = fromD[h] & ~SEALED
        :: (fromD[h] & RECLAIMED) -> fromD[h] = fromD[h] & ~RECLAIMED
        :: (fromD[h] & FINISHED) -> fromD[h] = fromD[h] & ~FINISHED
        :: (fromD[h] & ENDED) -> fromD[h] = fromD[h] & ~ENDED
        :: (fromD[h] & D_FAILED) -> fromD[h] = fromD[h] & ~D_FAILED
        fi; tidy }
    :: atomic { losses > 0 && fromP[h] != 0 ->
        losses--;
        if
        :: (fromP[h] & ACCEPTED) -> fromP[h] = fromP[h] & ~ACCEPTED
        :: (fromP[h] & WRITTEN) -> fromP[h] = fromP[h] & ~WRITTEN
        :: (fromP[h] & DRAINED) -> fromP[h] = fromP[h] & ~DRAINED
        :: (fromP[h] & DRAINED_NOISY) -> fromP[h] = fromP[h] & ~DRAINED_NOISY
        :: (fromP[h] & P_FAILED) -> fromP[h] = fromP[h] & ~P_FAILED
        fi; tidy }
    :: atomic { losses > 0 && tokens[h] != 0 -> losses--; tokens[h] = 0; tidy }
#ifndef MUTANT_NO_RETRANSMIT
#define ASKS(h) ROW_OPEN(h)
#define HEEDS_D(h, order) (!(toD[h] & (order)) && \
    (dec[h] == D_NONE || dec[h] == D_GRANTED || dec[h] == D_DRAINING && (order) != D_CANCEL || \
     (dec[h] == D_VERIFYING || dec[h] == D_SEALED) && toD[h] == 0))
#define HEEDS_P(h, order) (!(toP[h] & (order)) && HEARD(h) && \
    (pre[h] == P_NONE || pre[h] == P_WRITING || pre[h] == P_COMPLETING && ((order) != RELEASE || !released[h]) || \
     pre[h] == P_WRITTEN && toP[h] == 0))
    :: d_step { ASKS(h) && row[h] == R_RESERVING && !(toD[h] & RESERVE) && dec[h] == D_NONE ->
        toD[h] = toD[h] | RESERVE; tidy }
    :: d_step { ASKS(h) && row[h] == R_PREFILLING && !accepted[h] && !prefillSettled[h] && !(toP[h] & PREFILL) &&
                HEARD(h) && pre[h] == P_NONE -> toP[h] = toP[h] | PREFILL; tidy }
    :: d_step { ASKS(h) && (row[h] == R_DRAINING || row[h] == R_CANCELLING) && HEEDS_D(h, D_CANCEL) ->
        toD[h] = toD[h] | D_CANCEL; tidy }
    :: d_step { ASKS(h) && row[h] == R_RECLAIMING && HEEDS_D(h, RECLAIM) -> toD[h] = toD[h] | RECLAIM; tidy }
    :: d_step { ASKS(h) && row[h] == R_FENCING && HEEDS_D(h, FENCE) -> toD[h] = toD[h] | FENCE; tidy }
    :: d_step { ASKS(h) && row[h] >= R_DECODING && !prefillSettled[h] && sealedSeen[h] && HEEDS_P(h, RELEASE) ->
        toP[h] = toP[h] | RELEASE; tidy }
    :: d_step { ASKS(h) && row[h] >= R_DECODING && !prefillSettled[h] && !sealedSeen[h] && HEEDS_P(h, P_CANCEL) ->
        toP[h] = toP[h] | P_CANCEL; tidy }
    /* repeated answers of the decode node */
    :: d_step { ASKS(h) && decodeUp && row[h] <= R_CANCELLING && dec[h] == D_GRANTED && row[h] == R_RESERVING &&
                !(fromD[h] & GRANTED) -> sayD(h, GRANTED); tidy }
    :: d_step { ASKS(h) && decodeUp && row[h] <= R_CANCELLING && dec[h] == D_REFUSED && !(fromD[h] & REFUSED) &&
                (row[h] == R_RESERVING || row[h] == R_RECLAIMING) ->
        sayD(h, REFUSED); tidy }
    :: d_step { ASKS(h) && decodeUp && row[h] <= R_CANCELLING && (dec[h] == D_SEALED || dec[h] == D_ENDING) &&
                row[h] != R_RESERVING && !sealedSeen[h] && !(fromD[h] & SEALED) -> sayD(h, SEALED); tidy }
    :: d_step { ASKS(h) && decodeUp && row[h] <= R_CANCELLING && dec[h] == D_RECLAIMED && !(fromD[h] & RECLAIMED) ->
        sayD(h, RECLAIMED); tidy }
    :: d_step { ASKS(h) && decodeUp && row[h] <= R_CANCELLING && dec[h] == D_FINISHED &&
                !(fromD[h] & (FINISHED | ENDED)) ->
        if
        :: generated[h] == TOKENS -> sayD(h, FINISHED)
        :: else -> sayD(h, ENDED)
        fi; tidy }
    /* and of the prefill node */
    :: d_step { ASKS(h) && !prefillSettled[h] && HEARD(h) && P_OPEN(h) && row[h] == R_PREFILLING && !accepted[h] &&
                !(fromP[h] & ACCEPTED) -> sayP(h, ACCEPTED); tidy }
    :: d_step { ASKS(h) && !prefillSettled[h] && HEARD(h) && pre[h] == P_WRITTEN && row[h] == R_PREFILLING &&
                !(fromP[h] & WRITTEN) -> sayP(h, WRITTEN); tidy }
    :: d_step { ASKS(h) && !prefillSettled[h] && HEARD(h) && pre[h] == P_SETTLED && !(fromP[h] & DRAINED) ->
        sayP(h, DRAINED); tidy }
    :: d_step { ASKS(h) && !prefillSettled[h] && HEARD(h) && pre[h] == P_SETTLED_NOISY && !(fromP[h] & DRAINED_NOISY) ->
        sayP(h, DRAINED_NOISY); tidy }
#endif
    od
}
#endif

/* The router loses a prefill node: its lease or its stream has ended, whatever the node does. */
#define rowLostP(h) \
    if :: prefillOf[h] == p && ofRestarted[h] == attachedInc[p] && ROW_OPEN(h) -> rowLostPrefill(h) :: else fi
#define crashOf(h) \
    if :: prefillOf[h] == p && ofRestarted[h] == incarnation[p] && row[h] != R_NONE -> pre[h] = P_GONE :: else fi
/* one side of a prefill node's stream has ended: its messages are gone */
#define cutStream(h) if :: prefillOf[h] == p && row[h] != R_NONE -> toP[h] = 0; fromP[h] = 0 :: else fi
/* SendingHandoffs.routerLost */
#define stopOf(h) if :: prefillOf[h] == p && row[h] != R_NONE && ALIVE(h) -> stop(h) :: else fi
#define orphanedP(h) if :: row[h] == R_ORPHAN && prefillOf[h] == p -> toP[h] = 0; stop(h) :: else fi
/* ReceivingHandoffs.routerLost */
#define routerLostD(h) abortFence(h)
#define orphanedD(h) if :: row[h] == R_ORPHAN -> toD[h] = 0; abortFence(h) :: else fi
/* HandoffLedger.nodeAttached, answered */
#define listP(h) if :: prefillOf[h] == p && P_OPEN(h) && !ROW_OPEN(h) -> toP[h] = toP[h] | P_CANCEL :: else fi
#define listD(h) if :: D_OPEN(h) && !ROW_OPEN(h) -> toD[h] = toD[h] | FENCE :: else fi
#define lostD(h) rowLostDecode(h); toD[h] = 0; fromD[h] = 0; tokens[h] = 0
#define crashD(h) if :: row[h] != R_NONE -> dec[h] = D_GONE; completionDue[h] = 0 :: else fi
#define orphan(h) if :: row[h] != R_NONE && row[h] != R_SETTLED -> row[h] = R_ORPHAN; outcome[h] = 1 :: else fi
#define crashL(l) \
    if :: gate[l] != G_ABSENT -> gate[l] = G_CLOSED :: else fi; gateOf[l] = NONE; user[l] = NONE; closing[l] = 0
#define endOf(l) if :: laneEnd[l] == L_OPEN || laneEnd[l] == L_STOPPING -> laneEnd[l] = L_CLOSED :: else fi

/* Nodes are alike: what may happen to node 1 happens once it is used. */
#if defined(CRASH) || defined(PAUSE) || defined(CUT_LANE) || defined(CUT_PREFILL) || defined(ROUTER_CRASH)
#define PREFILL_FAULTS
proctype PrefillFaults(byte p) {
end:
    do
#ifdef CRASH
    /* its connections are reset, and what was sent may still arrive; or its host is gone and nobody is told */
    :: d_step { crashes > 0 && up[p] && opened > p ->
        crashes--; up[p] = 0; EACH(crashOf); endOf(p); endOf(p + 2); tidy }
    :: d_step { crashes > 0 && up[p] && opened > p && gate[p] != G_CLOSED && !broken[p] ->
        crashes--; up[p] = 0; EACH(crashOf); laneEnd[p] = L_CLOSED; broken[p] = B_SILENT; endOf(p + 2); tidy }
    :: d_step { !up[p] && attached[p] -> attached[p] = 0; EACH(rowLostP); tidy }
    :: d_step { !up[p] && !attached[p] && !incarnation[p] && opened < HANDOFFS ->
        up[p] = 1; incarnation[p] = 1; attached[p] = 1; attachedInc[p] = 1 }
#endif
#ifdef PAUSE
    /* for ever, and its lease ends; with HANG it does not. One that goes on after its lease has ended is CUT_PREFILL */
    :: d_step { pauses > 0 && opened > p -> pauses--; frozen[p] = 1; tidy }
#ifndef HANG
    :: d_step { frozen[p] && attached[p] -> attached[p] = 0; EACH(rowLostP); tidy }
#endif
#endif
#ifdef CUT_LANE
    /* the path under a lane: nothing arrives any more and nobody is told, or both ends see a reset */
    :: d_step { laneCuts > 0 && gate[p] != G_CLOSED && opened > p -> laneCuts--; broken[p] = B_SILENT; tidy }
    :: d_step { laneCuts > 0 && gate[p] != G_CLOSED && opened > p -> laneCuts--; broken[p] = B_RESET; tidy }
#endif
#ifdef CUT_PREFILL
    /* the stream between router and prefill node ends, or the lease of a paused one that goes on later; what was on
     * its way is lost; each side notices for itself, and the node comes back when both have */
    :: d_step { prefillCuts > 0 && attached[p] && opened > p ->
        prefillCuts--; attached[p] = 0; EACH(rowLostP); EACH(cutStream); tidy }
    :: d_step { !attached[p] && knowsRouter[p] -> knowsRouter[p] = 0; EACH(stopOf); tidy }
    :: d_step { !attached[p] && !knowsRouter[p] -> attached[p] = 1; knowsRouter[p] = 1; EACH(listP); tidy }
#endif
#ifdef ROUTER_CRASH
    :: d_step { prefillMissesRouter[p] -> prefillMissesRouter[p] = 0; EACH(orphanedP); tidy }
#endif
    od
}
#endif

#if defined(CUT_DECODE) || defined(DECODE_CRASH) || defined(ROUTER_CRASH)
#define OTHER_FAULTS
proctype OtherFaults() {
end:
    do
#ifdef CUT_DECODE
    :: d_step { decodeCuts > 0 && opened > 0 -> decodeCuts--; decodeKnown = 0; EACH(lostD); tidy }
    :: d_step { !decodeKnown && decodeKnowsRouter -> decodeKnowsRouter = 0; EACH(routerLostD); tidy }
    :: d_step { !decodeKnown && !decodeKnowsRouter -> decodeKnown = 1; decodeKnowsRouter = 1; EACH(listD); tidy }
#endif
#ifdef DECODE_CRASH
    /* the process ends, and its lanes and slots with it; another starts when the router has noticed */
    :: d_step { decodeCrashes > 0 && opened > 0 -> decodeCrashes--; decodeUp = 0;
        EACH(crashD); crashL(0); crashL(1); crashL(2); crashL(3);
        slot[0] = S_FREE; owner[0] = NONE;
#if SLOTS > 1
        slot[1] = S_FREE; owner[1] = NONE;
#endif
        tidy }
    :: d_step { !decodeUp && decodeKnown -> decodeKnown = 0; EACH(lostD); tidy }
    :: d_step { !decodeUp && !decodeKnown -> decodeUp = 1; decodeKnown = 1 }
#endif
#ifdef ROUTER_CRASH
    /* its rows are gone and its clients too; what it sent may be delivered until a node notices; the next router
     * takes requests at once */
    :: d_step { routerCrashes > 0 && opened > 0 -> routerCrashes--;
        EACH(orphan);
        if
        :: running[0] != NONE -> endRequest(0)
        :: else
        fi;
        if
        :: running[1] != NONE -> endRequest(1)
        :: else
        fi;
        decodeMissesRouter = 1; prefillMissesRouter[0] = 1; prefillMissesRouter[1] = 1;
        tidy }
    :: d_step { decodeMissesRouter -> decodeMissesRouter = 0; EACH(orphanedD); tidy }
#endif
    od
}
#endif

#define settledAtLast(h) \
    invariant(3, dec[h] != D_DRAINING && dec[h] != D_FENCING); \
    invariant(6, !D_OPEN(h)); \
    invariant(6, !P_OPEN(h) || frozen[prefillOf[h]]);       /* source pages */ \
    invariant(6, !ROW_OPEN(h) || row[h] == R_RELEASING && frozen[prefillOf[h]])   /* the router's ledger */

proctype Judge() {
end:
    timeout ->
    atomic {
        EACH(settledAtLast);
        invariant(6, slot[0] == S_FREE);
#if SLOTS > 1
        invariant(6, slot[1] == S_FREE);
#endif
        invariant(7, ends[0] == 1 && ends[1] == 1)
    }
}

init {
    atomic {
        owner[0] = NONE;
#if SLOTS > 1
        owner[1] = NONE;
#endif
        running[0] = NONE; running[1] = NONE; speaker[0] = NONE; speaker[1] = NONE;
        user[0] = NONE; user[1] = NONE; user[2] = NONE; user[3] = NONE;
        gateOf[0] = NONE; gateOf[1] = NONE; gateOf[2] = NONE; gateOf[3] = NONE;
        gate[0] = G_IDLE; gate[1] = G_IDLE; laneEnd[0] = L_OPEN; laneEnd[1] = L_OPEN;
#define start(h) run Row(h); run Decode(h); run Prefill(h); run Records(h)
        EACH(start);
#if LOSSES > 0
#define startNetwork(h) run Network(h)
        EACH(startNetwork);
#endif
        run Lane(0); run Lane(1); run Lane(2); run Lane(3);
        run Requests(0); run Requests(1);
#ifdef PREFILL_FAULTS
        run PrefillFaults(0); run PrefillFaults(1);
#endif
#ifdef OTHER_FAULTS
        run OtherFaults();
#endif
        run Judge()
    }
}

/* Invariant 3 as a formula: on every run, every quarantine ends, whichever handoff it is of. */
#ifdef LTL
#define Q0 D_QUARANTINE(0)
#define Q1 D_QUARANTINE(1)
ltl quarantine_ends { ([] (Q0 -> <> !Q0)) && ([] (Q1 -> <> !Q1)) }
#endif
