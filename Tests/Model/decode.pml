/* The decode node alone, among peers that do anything: a router that orders whatever it likes in any order, prefill
 * nodes that put any record on any of their lanes. Generations and epochs are numbers here, and the node may forget
 * settled handoffs, so that the same name is granted again. What the node and its lanes check by themselves must
 * keep slots safe whoever is wrong. scripts/verify.py checks it; docs/model.md says what stands for what.
 */

#define HANDOFFS 2
#define LANES 2
#define SLOTS 2
#ifndef GRANTS              /* in one run; generations and epochs go up to it */
#define GRANTS 3
#endif
#ifndef DIALS
#define DIALS 3             /* lanes connected anew in one run */
#endif
#define PARTS 2             /* records that fill a page */
#define NONE 15

/* ReceivingHandoff.Phase; unbinding is left at once */
#define D_NONE 0
#define D_GRANTED 1
#define D_VERIFYING 2
#define D_SEALED 3
#define D_ENDING 4
#define D_DRAINING 5
#define D_FENCING 6
#define D_SETTLED 7

/* LaneGate.State; closed lanes are connected anew, with epochs that start again, under another number: here the
 * number stays and the epochs go on */
#define G_IDLE 0
#define G_BOUND 1
#define G_LANDING 2
#define G_COMPLETED 3
#define G_CLOSED 4

/* SlotPool.State */
#define S_FREE 0
#define S_GRANTED 1
#define S_QUARANTINED 2
#define S_INUSE 3

/* An invariant of docs/handoff.md, by its number, which the checker prints. */
#define invariant(number, what) assert((what) || number == 0)

byte dec[HANDOFFS];
byte slotOf[HANDOFFS];
byte laneOf[HANDOFFS];
byte epochOf[HANDOFFS];
byte generationOf[HANDOFFS];
byte completionDue[LANES] = NONE;   /* the handoff whose completion the lane reports… */
byte dueEpoch[LANES];               /* …in this epoch */

byte slot[SLOTS];
byte generation[SLOTS];
byte user[LANES] = NONE;
byte epoch[LANES];
bit closing[LANES];

/* LaneGate: the bound grant */
byte gate[LANES];
byte boundTo[LANES] = NONE;
byte boundEpoch[LANES];
byte boundSlot[LANES] = NONE;
byte boundGeneration[LANES];
byte filled[LANES];
/* the record that lands */
byte recordSlot[LANES] = NONE;
byte recordGeneration[LANES];

byte grants;
byte dials = DIALS;

#define D_OPEN(h) (dec[h] >= D_GRANTED && dec[h] <= D_FENCING)

inline recycle(h) {
    slot[slotOf[h]] = S_FREE;
    generation[slotOf[h]]++;
    settle(h)
}

inline settle(h) {
    if
    :: user[laneOf[h]] == h && epoch[laneOf[h]] == epochOf[h] -> user[laneOf[h]] = NONE
    :: else
    fi;
    dec[h] = D_SETTLED; slotOf[h] = 0; laneOf[h] = 0; epochOf[h] = 0; generationOf[h] = 0
}

inline ungate(l, state) {
    gate[l] = state; boundTo[l] = NONE; boundSlot[l] = NONE; boundGeneration[l] = 0; filled[l] = 0;
    recordSlot[l] = NONE; recordGeneration[l] = 0
}

inline fence(h) {
    slot[slotOf[h]] = S_QUARANTINED;
    dec[h] = D_FENCING;
    if
    :: gate[laneOf[h]] == G_CLOSED || epoch[laneOf[h]] != epochOf[h] ->     /* that lane is gone */
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

/* LaneGate.unbind */
inline unbind(h) {
#ifdef MUTANT_NO_UNBIND
    recycle(h);
#else
    if
    :: gate[laneOf[h]] == G_LANDING && boundEpoch[laneOf[h]] == epochOf[h] -> fence(h)
    :: else ->
        if
        :: (gate[laneOf[h]] == G_BOUND || gate[laneOf[h]] == G_COMPLETED) && boundEpoch[laneOf[h]] == epochOf[h] ->
            ungate(laneOf[h], G_IDLE)
        :: else
        fi;
        recycle(h)
    fi
#endif
}

/* SlotPool.grant and LaneGate.bind */
inline grant(h, s, l) {
    grants++;
    slot[s] = S_GRANTED;
    epoch[l]++;
    user[l] = h;
    slotOf[h] = s; laneOf[h] = l; epochOf[h] = epoch[l]; generationOf[h] = generation[s];
    dec[h] = D_GRANTED;
    assert(gate[l] == G_IDLE || gate[l] == G_COMPLETED);    /* the gate refuses to bind over a bound grant */
    ungate(l, G_BOUND);
    boundTo[l] = h; boundEpoch[l] = epoch[l]; boundSlot[l] = s; boundGeneration[l] = generation[s]
}

#define IDLE(l) (user[l] == NONE && !closing[l] && gate[l] != G_CLOSED)

/* ReceivingHandoff under any orders, in any order, at any time */
proctype Decode(byte h) {
end:
    do
    :: d_step { dec[h] == D_NONE && grants < GRANTS && slot[0] == S_FREE && IDLE(0) -> grant(h, 0, 0) }
    :: d_step { dec[h] == D_NONE && grants < GRANTS && slot[0] == S_FREE && IDLE(1) -> grant(h, 0, 1) }
    :: d_step { dec[h] == D_NONE && grants < GRANTS && slot[1] == S_FREE && IDLE(0) -> grant(h, 1, 0) }
    :: d_step { dec[h] == D_NONE && grants < GRANTS && slot[1] == S_FREE && IDLE(1) -> grant(h, 1, 1) }
    /* Cancel */
    :: d_step { dec[h] == D_GRANTED -> slot[slotOf[h]] = S_QUARANTINED; dec[h] = D_DRAINING }
    /* Reclaim, true or not */
    :: d_step { dec[h] == D_GRANTED || dec[h] == D_DRAINING -> unbind(h) }
    /* Fence, a lost router; deadline drainBudget */
    :: d_step { dec[h] == D_GRANTED -> fence(h) }
    :: d_step { dec[h] == D_DRAINING ->
#ifdef MUTANT_FREE_ON_TIMEOUT
        recycle(h)
#else
        fence(h)
#endif
        }
    /* any of them behind the completion record, and behind the seal */
    :: d_step { dec[h] == D_VERIFYING -> recycle(h) }
    :: d_step { dec[h] == D_SEALED -> dec[h] = D_ENDING }
    /* digests, equal or not */
    :: d_step { dec[h] == D_VERIFYING ->
        assert(slot[slotOf[h]] == S_GRANTED);
        slot[slotOf[h]] = S_INUSE;
        dec[h] = D_SEALED;
        if
        :: user[laneOf[h]] == h -> user[laneOf[h]] = NONE
        :: else
        fi }
    :: d_step { dec[h] == D_VERIFYING -> fence(h) }
    :: d_step { dec[h] == D_SEALED || dec[h] == D_ENDING -> recycle(h) }
    /* SettledMemory is full */
    :: d_step { dec[h] == D_SETTLED && grants < GRANTS -> dec[h] = D_NONE }
    od
}

#ifdef MUTANT_NO_HANDOFF
#define SAME_HANDOFF(l) true
#else
#define SAME_HANDOFF(l) (h == boundTo[l])
#endif
#ifdef MUTANT_NO_EPOCH
#define SAME_EPOCH(l) true
#else
#define SAME_EPOCH(l) (e == boundEpoch[l])
#endif
#ifdef MUTANT_NO_GENERATION
#define SAME_SLOT(l) (s == boundSlot[l])
#else
#define SAME_SLOT(l) (s == boundSlot[l] && g == boundGeneration[l])
#endif
#define FITS(l) (SAME_HANDOFF(l) && SAME_EPOCH(l) && SAME_SLOT(l))
#ifdef MUTANT_NO_RECORD_CHECK
#undef FITS
#define FITS(l) true
#endif
#ifdef MUTANT_NO_FILL
#define FILLED(l) true
#else
#define FILLED(l) (filled[l] == PARTS)
#endif

/* ReceivingHandoff.laneClosed */
inline closed(h, l) {
    if
    :: laneOf[h] == l && (dec[h] == D_GRANTED || dec[h] == D_DRAINING || dec[h] == D_FENCING) -> recycle(h)
    :: else
    fi
}

inline leave(l) {
    ungate(l, G_CLOSED);
    closed(0, l); closed(1, l);
    user[l] = NONE; closing[l] = 0
}

/* ReceiveLane and its peer, which sends what it likes: any handoff, epoch, slot and generation, a completion record
 * at any time, the end of the connection at any time. */
proctype Lane(byte l) {
    byte h, e, s, g;
end:
    do
    /* any header: LaneGate.enter */
    :: atomic { gate[l] == G_BOUND && completionDue[l] == NONE ->
        select(h : 0 .. HANDOFFS - 1); select(e : 0 .. GRANTS);
        select(s : 0 .. SLOTS - 1); select(g : 0 .. GRANTS);
        if
        :: FITS(l) && filled[l] < PARTS -> gate[l] = G_LANDING; recordSlot[l] = s; recordGeneration[l] = g
        :: else -> leave(l)                             /* rejected; the lane ends */
        fi;
        h = 0; e = 0; s = 0; g = 0 }
    :: d_step { (gate[l] == G_IDLE || gate[l] == G_COMPLETED) && completionDue[l] == NONE &&
                !closing[l] -> closing[l] = 1 }
    /* the bytes land; LaneGate.leave */
    :: d_step { gate[l] == G_LANDING ->
        /* the slot has the generation that the record is for, and is still promised */
        invariant(1, generation[recordSlot[l]] == recordGeneration[l] &&
            (slot[recordSlot[l]] == S_GRANTED || slot[recordSlot[l]] == S_QUARANTINED));
        filled[l]++;
        gate[l] = G_BOUND; recordSlot[l] = NONE; recordGeneration[l] = 0 }
    /* a completion record: LaneGate.complete. One that names another handoff, epoch or slots is rejected as above. */
    :: d_step { gate[l] == G_BOUND && completionDue[l] == NONE && FILLED(l) ->
        gate[l] = G_COMPLETED; completionDue[l] = boundTo[l]; dueEpoch[l] = boundEpoch[l];
        invariant(2, filled[l] == PARTS) }              /* nothing is sealed but what has landed */
    /* ReceivingHandoffs.completion */
    :: d_step { completionDue[l] != NONE ->
        if
        :: user[l] == completionDue[l] && epoch[l] == dueEpoch[l] && dec[completionDue[l]] == D_GRANTED ->
            dec[completionDue[l]] = D_VERIFYING
        :: user[l] == completionDue[l] && epoch[l] == dueEpoch[l] && dec[completionDue[l]] == D_DRAINING ->
            h = completionDue[l]; recycle(h); h = 0
        :: else
        fi;
        completionDue[l] = NONE; dueEpoch[l] = 0 }
    /* a fence, a rejected record or the peer's end: the thread leaves, in the middle of a record too */
    :: d_step { gate[l] != G_CLOSED && completionDue[l] == NONE ->
        leave(l) }
    /* dialled again */
    :: d_step { gate[l] == G_CLOSED && grants < GRANTS && dials > 0 -> dials--; gate[l] = G_IDLE; closing[l] = 0 }
    od
}

/* What must hold where nothing more can happen: with the engine's and the router's orders all given, no slot is left
 * (invariants 3 and 6). */
proctype Judge() {
end:
    timeout ->
    d_step {
        invariant(3, dec[0] != D_DRAINING && dec[0] != D_FENCING && dec[1] != D_DRAINING && dec[1] != D_FENCING);
        invariant(6, slot[0] == S_FREE && slot[1] == S_FREE)
    }
}

init {
    atomic {
        run Decode(0); run Decode(1);
        run Lane(0); run Lane(1);
        run Judge()
    }
}
