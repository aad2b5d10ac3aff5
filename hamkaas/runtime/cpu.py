"""Runs a compiled model on the CPU.

The kernels and a small executor are compiled together by LLVM for the processor at hand. A program is a table of
steps in memory that the executor walks, so that the time to compile does not depend on the number of launches:

    caller (worker 0)          worker 1, 2, ...
      run() ---- go ---------->  mailbox          each has its own
      steps, with barriers <-->  steps            every worker walks the same table and does its share of each step
      last barrier <-----------  leaves           the caller alone waits here
                                 spins, then parks: back to Python, where it waits for a lock

The blocks of a step are cut into pieces, a few for each worker. A barrier waits for pieces, not for workers, and who
has waited for a while takes what others have not begun: a worker whose core is taken away by another program delays
the model by one piece, and if it is late for a whole step, by nothing.

Between runs a worker spins for a moment, because the next run of a model that generates text comes at once, and then
parks, which costs nothing. A program that is too small to share runs on the caller alone and wakes nobody.

A `fork` copies no threads: make the runtime in the process that uses it.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# llvmlite has no types.

import ctypes
import mmap
import os
import platform
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from hamkaas import knobs
from hamkaas.artifact import ALIGNMENT, Artifact, BufferRef, Copy, Launch, Program, Space, TensorSpec
from hamkaas.errors import RuntimeFault
from hamkaas.runtime.cache import CacheKey, DiskCache

MAX_WORKERS = 64
"""The executor reports the workers that are to be woken as the bits of one integer."""

BYTES_PER_WORKER = 1 << 20
"""A program gets one worker for this many bytes that it touches: with less, waiting for each other is not worth it."""

BYTES_PER_SHARED_STEP = 32 << 10
"""A step that touches less is done by worker 0 alone; two such steps in a row need no barrier between them."""

BYTES_PER_PIECE = 32 << 10
MAX_PIECES = 8
"""A worker's share of a step is cut into so many pieces, if they are not smaller than that."""

BYTES_TO_READ = 256 << 20
"""Of this many bytes of weights the bandwidth is measured, if there are as many."""

BYTES_PER_READING = 32 << 20
"""What a measured run reads at least: small weights are read several times in a row."""

BYTES_PER_BLOCK = 64 << 10
"""A block of a step that only reads."""

SECONDS_TO_READ = 0.1
"""How long the bandwidth is measured at least, after a first run that does not count."""

MAX_COPIED_BYTES = 1 << 29
"""Weights of up to this size in all are copied into one piece of memory, which takes 0.1 s; more stay where they are.

A piece that large gets pages of 2 MB from numpy, where the system has them, and each weight starts at a cache line,
which in a file it seldom does.
"""

_LINE = 16
"""Words between two places that different workers write: two cache lines, for processors fetch them in pairs."""

_STEP_WORDS = 8
_STOPPED, _CROWDED = 1, 2

_CAN_MOVE = sys.platform == "linux"
"""Whether a thread can be told on which core to run."""

# The executor. Memory that it shares with Python, in words of 64 bits:
#
#   control   line 0       how many pieces have been finished since the start
#             line 1       the run in progress: job, what line 0 said when it began, workers to be woken (as bits),
#                          number of its first step among the steps of all runs, and that of the next run
#             line 2 + w   worker w: mailbox (0 idle, 1 go, 2 parked, 3 stop), 256 * number of a step + pieces begun,
#                          core that it is on
#   job       steps, their number, workers, patches, their number, pieces of all steps
#   step      function (0: copy), arguments, blocks (or bytes), workers, whether a barrier comes first,
#             pieces of all steps before it, pieces for each worker
#   patch     address of an argument, index into io, bytes to add: pointers that differ from run to run
#
# Worker 0 is the caller. A worker sets its mailbox from idle to parked and the caller sets it to go, each with one
# atomic operation: one of the two comes first, and the other one sees it. Nobody can sleep through a go.
#
# A late worker may still walk the table of a run that the others have finished, or of the one before. It finds every
# barrier passed and every piece taken, because the numbers of steps only grow, and arrives at the end in no time.
_EXECUTOR = """\
{declarations}
; Begins the next piece of a worker's share of a step: the number of the piece, or -1 if there is none left.
; `first` is 256 * number of the step: the word of a worker that has not reached the step is less, and of one that
; has left it is more by at least 256.
define internal i64 @hamkaas.begin(ptr %word, i64 %first, i64 %pieces) nounwind {{
entry:
  %read = load atomic i64, ptr %word monotonic, align 8
  br label %try
try:
  %seen = phi i64 [ %read, %entry ], [ %found, %take ]
  %is.earlier = icmp ult i64 %seen, %first
  %now = select i1 %is.earlier, i64 %first, i64 %seen
  %piece = sub i64 %now, %first
  %is.left = icmp ult i64 %piece, %pieces
  br i1 %is.left, label %take, label %none
take:
  %begun = add i64 %now, 1
  %exchanged = cmpxchg ptr %word, i64 %seen, i64 %begun acq_rel monotonic
  %found = extractvalue {{ i64, i1 }} %exchanged, 0
  %is.mine = extractvalue {{ i64, i1 }} %exchanged, 1
  br i1 %is.mine, label %mine, label %try
mine:
  ret i64 %piece
none:
  ret i64 -1
}}

; Does all pieces of a worker's share of a step that nobody has begun; returns their number.
define internal i64 @hamkaas.share(ptr %control, ptr %step, i64 %first, i64 %owner) nounwind {{
entry:
  %args.at = getelementptr inbounds i64, ptr %step, i64 1
  %blocks.at = getelementptr inbounds i64, ptr %step, i64 2
  %workers.at = getelementptr inbounds i64, ptr %step, i64 3
  %pieces.at = getelementptr inbounds i64, ptr %step, i64 6
  %function = load ptr, ptr %step, align 8
  %args = load ptr, ptr %args.at, align 8
  %blocks = load i64, ptr %blocks.at, align 8
  %workers = load i64, ptr %workers.at, align 8
  %pieces = load i64, ptr %pieces.at, align 8
  %line = add i64 %owner, 2
  %offset = mul i64 %line, {line}
  %mailbox = getelementptr inbounds i64, ptr %control, i64 %offset
  %word = getelementptr inbounds i64, ptr %mailbox, i64 1
  %all = mul i64 %workers, %pieces
  %before = mul i64 %owner, %pieces
  br label %next
next:
  %count = phi i64 [ 0, %entry ], [ %count.next, %do ]
  %piece = call i64 @hamkaas.begin(ptr %word, i64 %first, i64 %pieces)
  %is.none = icmp slt i64 %piece, 0
  br i1 %is.none, label %done, label %do
do:
  %this = add i64 %before, %piece
  %following = add i64 %this, 1
  %low = mul i64 %blocks, %this
  %high = mul i64 %blocks, %following
  %begin = udiv i64 %low, %all
  %end = udiv i64 %high, %all
  call void %function(i64 %begin, i64 %end, ptr %args)
  %count.next = add i64 %count, 1
  br label %next
done:
  ret i64 %count
}}

; Waits until `target` pieces are finished. After a while it does what is left of `step` (if not null), and then lets
; other threads have the core in between.
define internal void @hamkaas.wait(ptr %control, i64 %target, ptr %step, i64 %first) nounwind {{
entry:
  br label %look
look:
  %round = phi i64 [ 0, %entry ], [ %next, %pause ], [ %next, %yield ], [ %round, %stolen ]
  %helped = phi ptr [ %step, %entry ], [ %helped, %pause ], [ %helped, %yield ], [ null, %stolen ]
  %finished = load atomic i64, ptr %control acquire, align 8
  %is.reached = icmp uge i64 %finished, %target
  br i1 %is.reached, label %done, label %not.yet
not.yet:
  %next = add i64 %round, 1
  %is.late = icmp uge i64 %round, {spins_to_help}
  %is.undone = icmp ne ptr %helped, null
  %must.help = and i1 %is.late, %is.undone
  br i1 %must.help, label %steal, label %idle
idle:
  %is.patient = icmp ult i64 %round, {spins}
  br i1 %is.patient, label %pause, label %yield
pause:
  {pause}
  br label %look
yield:
  {yield}
  br label %look
steal:
  %workers.at = getelementptr inbounds i64, ptr %helped, i64 3
  %workers = load i64, ptr %workers.at, align 8
  br label %others
others:
  %owner = phi i64 [ 0, %steal ], [ %owner.next, %others ]
  %sum = phi i64 [ 0, %steal ], [ %sum.next, %others ]
  %count = call i64 @hamkaas.share(ptr %control, ptr %helped, i64 %first, i64 %owner)
  %sum.next = add i64 %sum, %count
  %owner.next = add i64 %owner, 1
  %is.more = icmp ult i64 %owner.next, %workers
  br i1 %is.more, label %others, label %stolen
stolen:
  %before = atomicrmw add ptr %control, i64 %sum.next acq_rel
  br label %look
done:
  ret void
}}

; Does one worker's part of all steps of the run in progress.
define void @hamkaas.work(ptr %control, i64 %worker) nounwind {{
entry:
  %job.at = getelementptr inbounds i64, ptr %control, i64 {line}
  %base.at = getelementptr inbounds i64, ptr %job.at, i64 1
  %number.at = getelementptr inbounds i64, ptr %job.at, i64 3
  br label %read
; The caller may be about to start the next run: the number of the first step is 0 meanwhile, and differs afterwards.
read:
  %number = load atomic i64, ptr %number.at acquire, align 8
  %job = load atomic ptr, ptr %job.at monotonic, align 8
  %base = load atomic i64, ptr %base.at monotonic, align 8
  fence acquire
  %number.again = load atomic i64, ptr %number.at monotonic, align 8
  %is.set = icmp ne i64 %number, 0
  %is.same = icmp eq i64 %number, %number.again
  %is.whole = and i1 %is.set, %is.same
  br i1 %is.whole, label %start, label %read
start:
  {core}
  %core.id = sext i32 %core to i64
  %line = add i64 %worker, 2
  %offset = mul i64 %line, {line}
  %mailbox = getelementptr inbounds i64, ptr %control, i64 %offset
  %core.at = getelementptr inbounds i64, ptr %mailbox, i64 2
  store atomic i64 %core.id, ptr %core.at monotonic, align 8
  %steps = load ptr, ptr %job, align 8
  %count.at = getelementptr inbounds i64, ptr %job, i64 1
  %count = load i64, ptr %count.at, align 8
  %is.caller = icmp eq i64 %worker, 0
  %end = getelementptr inbounds [{step_words} x i64], ptr %steps, i64 %count
  %first.start = shl i64 %number, 8
  br label %head
; `finished` pieces are to be added to line 0; `last` is the step that is shared since the last barrier.
head:
  %step = phi ptr [ %steps, %start ], [ %step.next, %next ]
  %first = phi i64 [ %first.start, %start ], [ %first.next, %next ]
  %finished = phi i64 [ 0, %start ], [ %finished.next, %next ]
  %last = phi ptr [ null, %start ], [ %last.next, %next ]
  %last.first = phi i64 [ 0, %start ], [ %last.first.next, %next ]
  %is.more = icmp ult ptr %step, %end
  br i1 %is.more, label %begin, label %finish
begin:
  %barrier.at = getelementptr inbounds i64, ptr %step, i64 4
  %barrier = load i64, ptr %barrier.at, align 8
  %has.barrier = icmp ne i64 %barrier, 0
  br i1 %has.barrier, label %arrive, label %enter
arrive:
  %before.at = getelementptr inbounds i64, ptr %step, i64 5
  %before = load i64, ptr %before.at, align 8
  %target = add i64 %base, %before
  %arrived = atomicrmw add ptr %control, i64 %finished acq_rel
  call void @hamkaas.wait(ptr %control, i64 %target, ptr %last, i64 %last.first)
  br label %enter
enter:
  %unsaid = phi i64 [ %finished, %begin ], [ 0, %arrive ]
  %left = phi ptr [ %last, %begin ], [ null, %arrive ]
  %workers.at = getelementptr inbounds i64, ptr %step, i64 3
  %workers = load i64, ptr %workers.at, align 8
  %is.shared = icmp ugt i64 %workers, 1
  br i1 %is.shared, label %shared, label %single
shared:
  %takes.part = icmp ult i64 %worker, %workers
  br i1 %takes.part, label %do, label %next
do:
  %done = call i64 @hamkaas.share(ptr %control, ptr %step, i64 %first, i64 %worker)
  %unsaid.shared = add i64 %unsaid, %done
  br label %next
single:
  br i1 %is.caller, label %alone, label %next
alone:
  %args.at = getelementptr inbounds i64, ptr %step, i64 1
  %size.at = getelementptr inbounds i64, ptr %step, i64 2
  %function = load ptr, ptr %step, align 8
  %args = load ptr, ptr %args.at, align 8
  %size = load i64, ptr %size.at, align 8
  %unsaid.alone = add i64 %unsaid, 1
  %is.copy = icmp eq ptr %function, null
  br i1 %is.copy, label %copy, label %launch
copy:
  %to.at = getelementptr inbounds ptr, ptr %args, i64 1
  %from = load ptr, ptr %args, align 8
  %to = load ptr, ptr %to.at, align 8
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %size, i1 false)
  br label %next
launch:
  call void %function(i64 0, i64 %size, ptr %args)
  br label %next
next:
  %finished.next = phi i64 [ %unsaid.shared, %do ], [ %unsaid, %shared ], [ %unsaid, %single ],
                           [ %unsaid.alone, %copy ], [ %unsaid.alone, %launch ]
  %last.next = select i1 %is.shared, ptr %step, ptr %left
  %last.first.next = select i1 %is.shared, i64 %first, i64 %last.first
  %step.next = getelementptr inbounds [{step_words} x i64], ptr %step, i64 1
  %first.next = add i64 %first, 256
  br label %head
finish:
  %all.at = getelementptr inbounds i64, ptr %job, i64 5
  %all = load i64, ptr %all.at, align 8
  %target.last = add i64 %base, %all
  %gone = atomicrmw add ptr %control, i64 %finished acq_rel
  br i1 %is.caller, label %wait, label %done.all
wait:
  call void @hamkaas.wait(ptr %control, i64 %target.last, ptr %last, i64 %last.first)
  %sleeping.at = getelementptr inbounds i64, ptr %job.at, i64 2
  store i64 0, ptr %sleeping.at, align 8
  br label %done.all
done.all:
  ret void
}}

; Starts a job and does worker 0's share of it, unless workers have to be woken first: then their bits are stored and
; returned, and it is for the caller to wake them and to call work.
define i64 @hamkaas.run(ptr %control, ptr %job, ptr %io) nounwind {{
entry:
  %patches.at = getelementptr inbounds i64, ptr %job, i64 3
  %patches = load ptr, ptr %patches.at, align 8
  %count.at = getelementptr inbounds i64, ptr %job, i64 4
  %count = load i64, ptr %count.at, align 8
  %patches.end = getelementptr inbounds [3 x i64], ptr %patches, i64 %count
  br label %patch.head
patch.head:
  %patch = phi ptr [ %patches, %entry ], [ %patch.next, %patch.body ]
  %patch.more = icmp ult ptr %patch, %patches.end
  br i1 %patch.more, label %patch.body, label %publish
patch.body:
  %index.at = getelementptr inbounds i64, ptr %patch, i64 1
  %offset.at = getelementptr inbounds i64, ptr %patch, i64 2
  %slot = load ptr, ptr %patch, align 8
  %index = load i64, ptr %index.at, align 8
  %offset = load i64, ptr %offset.at, align 8
  %address.at = getelementptr inbounds i64, ptr %io, i64 %index
  %address = load i64, ptr %address.at, align 8
  %moved = add i64 %address, %offset
  store i64 %moved, ptr %slot, align 8
  %patch.next = getelementptr inbounds [3 x i64], ptr %patch, i64 1
  br label %patch.head
publish:
  %job.at = getelementptr inbounds i64, ptr %control, i64 {line}
  %base.at = getelementptr inbounds i64, ptr %job.at, i64 1
  %number.at = getelementptr inbounds i64, ptr %job.at, i64 3
  %number.next.at = getelementptr inbounds i64, ptr %job.at, i64 4
  %steps.at = getelementptr inbounds i64, ptr %job, i64 1
  %steps = load i64, ptr %steps.at, align 8
  %base = load atomic i64, ptr %control acquire, align 8
  %number = load i64, ptr %number.next.at, align 8
  %number.next = add i64 %number, %steps
  store i64 %number.next, ptr %number.next.at, align 8
  store atomic i64 0, ptr %number.at monotonic, align 8
  fence release
  store atomic ptr %job, ptr %job.at monotonic, align 8
  store atomic i64 %base, ptr %base.at monotonic, align 8
  store atomic i64 %number, ptr %number.at release, align 8
  %workers.at = getelementptr inbounds i64, ptr %job, i64 2
  %workers = load i64, ptr %workers.at, align 8
  br label %post.head
post.head:
  %worker = phi i64 [ 1, %publish ], [ %worker.next, %post.body ]
  %parked = phi i64 [ 0, %publish ], [ %parked.next, %post.body ]
  %post.more = icmp ult i64 %worker, %workers
  br i1 %post.more, label %post.body, label %started
post.body:
  %line = add i64 %worker, 2
  %word = mul i64 %line, {line}
  %mailbox = getelementptr inbounds i64, ptr %control, i64 %word
  %state = atomicrmw xchg ptr %mailbox, i64 1 acq_rel
  %was.parked = icmp eq i64 %state, 2
  %parked.bit = zext i1 %was.parked to i64
  %parked.mask = shl i64 %parked.bit, %worker
  %parked.next = or i64 %parked, %parked.mask
  %worker.next = add i64 %worker, 1
  br label %post.head
started:
  %sleeping.at = getelementptr inbounds i64, ptr %job.at, i64 2
  store i64 %parked, ptr %sleeping.at, align 8
  %all.awake = icmp eq i64 %parked, 0
  br i1 %all.awake, label %go, label %done
go:
  call void @hamkaas.work(ptr %control, i64 0)
  br label %done
done:
  ret i64 %parked
}}

; What worker 1, 2, ... does: one job after the other. Returns 0 when it has parked, 1 when it shall stop, and 2 if
; `watches` is not 0 and it runs on the same core as one of the workers before it.
define i64 @hamkaas.serve(ptr %control, i64 %worker, i64 %watches) nounwind {{
entry:
  %line = add i64 %worker, 2
  %word = mul i64 %line, {line}
  %mailbox = getelementptr inbounds i64, ptr %control, i64 %word
  br label %idle
idle:
  br label %look
look:
  %round = phi i64 [ 0, %idle ], [ %next, %again ]
  %state = load atomic i64, ptr %mailbox acquire, align 8
  %news = and i64 %state, 1
  %has.news = icmp ne i64 %news, 0
  br i1 %has.news, label %open, label %wait
wait:
  %next = add i64 %round, 1
  %patient = icmp ult i64 %round, {spins}
  br i1 %patient, label %pause, label %tire
pause:
  {pause}
  br label %again
tire:
  %awake = icmp ult i64 %round, {spins_and_yields}
  br i1 %awake, label %yield, label %park
yield:
  {yield}
  br label %again
again:
  br label %look
open:
  %letter = atomicrmw xchg ptr %mailbox, i64 0 acq_rel
  %is.go = icmp eq i64 %letter, 1
  br i1 %is.go, label %go, label %stop
go:
  call void @hamkaas.work(ptr %control, i64 %worker)
  %core.at = getelementptr inbounds i64, ptr %mailbox, i64 2
  %core = load i64, ptr %core.at, align 8
  %does.watch = icmp ne i64 %watches, 0
  br i1 %does.watch, label %watch, label %idle
watch:
  %other = phi i64 [ 0, %go ], [ %other.next, %next.other ]
  %is.checked = icmp uge i64 %other, %worker
  br i1 %is.checked, label %idle, label %check
check:
  %other.line = add i64 %other, 2
  %other.offset = mul i64 %other.line, {line}
  %other.mailbox = getelementptr inbounds i64, ptr %control, i64 %other.offset
  %other.core.at = getelementptr inbounds i64, ptr %other.mailbox, i64 2
  %other.core = load atomic i64, ptr %other.core.at monotonic, align 8
  %is.same.core = icmp eq i64 %other.core, %core
  br i1 %is.same.core, label %crowded, label %next.other
next.other:
  %other.next = add i64 %other, 1
  br label %watch
crowded:
  ret i64 2
park:
  %exchanged = cmpxchg ptr %mailbox, i64 0, i64 2 acq_rel acquire
  %found = extractvalue {{ i64, i1 }} %exchanged, 0
  %late.news = and i64 %found, 1
  %has.late.news = icmp ne i64 %late.news, 0
  br i1 %has.late.news, label %idle, label %parked
parked:
  ret i64 0
stop:
  ret i64 1
}}

; A step that does nothing but read: blocks of a table of (address, bytes), in multiples of 256 bytes. Four streams a
; block keep more of the processor's prefetchers busy than one.
define void @hamkaas.read(i64 %begin, i64 %end, ptr %table) nounwind {{
entry:
  br label %blocks
blocks:
  %block = phi i64 [ %begin, %entry ], [ %block.next, %blocks.next ]
  %is.more = icmp ult i64 %block, %end
  br i1 %is.more, label %open, label %done
open:
  %entry.at = getelementptr inbounds [2 x i64], ptr %table, i64 %block
  %size.at = getelementptr inbounds i64, ptr %entry.at, i64 1
  %start = load ptr, ptr %entry.at, align 8
  %size = load i64, ptr %size.at, align 8
  %quarter = lshr i64 %size, 2
  br label %lines
lines:
  %offset = phi i64 [ 0, %open ], [ %offset.next, %lines ]
  %at.0 = getelementptr inbounds i8, ptr %start, i64 %offset
  %at.1 = getelementptr inbounds i8, ptr %at.0, i64 %quarter
  %at.2 = getelementptr inbounds i8, ptr %at.1, i64 %quarter
  %at.3 = getelementptr inbounds i8, ptr %at.2, i64 %quarter
  %unused.0 = load volatile <16 x float>, ptr %at.0, align 1
  %unused.1 = load volatile <16 x float>, ptr %at.1, align 1
  %unused.2 = load volatile <16 x float>, ptr %at.2, align 1
  %unused.3 = load volatile <16 x float>, ptr %at.3, align 1
  %offset.next = add i64 %offset, 64
  %is.line = icmp ult i64 %offset.next, %quarter
  br i1 %is.line, label %lines, label %blocks.next
blocks.next:
  %block.next = add i64 %block, 1
  br label %blocks
done:
  ret void
}}

; Tells a worker to stop; returns 1 if it is parked, so that the caller wakes it.
define i64 @hamkaas.stop(ptr %control, i64 %worker) nounwind {{
  %line = add i64 %worker, 2
  %word = mul i64 %line, {line}
  %mailbox = getelementptr inbounds i64, ptr %control, i64 %word
  %state = atomicrmw xchg ptr %mailbox, i64 3 acq_rel
  %was.parked = icmp eq i64 %state, 2
  %result = zext i1 %was.parked to i64
  ret i64 %result
}}
"""

_SPINS_TO_HELP = 30
_SPINS = 200
_YIELDS = 4000
"""How often a worker looks for news with a pause in between: before it helps others (1 us), before it makes a system
call each time (5 us), and how many of those calls until it parks (1 ms, or 20 where such a call is slow). To wake a
worker that has parked takes 50 to 400 us; between two tokens of a text a program does something else for about as long.

The pauses are few because two threads that the system has put on the same core wait for each other all that time.
"""


def _executor_text() -> str:
    """The executor for this platform: how to pause in a loop, to let other threads run, and to ask for the core."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        pause = "call void @llvm.x86.sse2.pause()"
    elif machine in ("aarch64", "arm64"):
        pause = "call void @llvm.aarch64.hint(i32 1)"
    else:
        pause = ""
    declarations = ["declare i32 @sched_yield()"] if os.name == "posix" else []
    if _CAN_MOVE:
        declarations.append("declare i32 @sched_getcpu()")
    return _EXECUTOR.format(
        declarations="\n".join(declarations),
        line=_LINE,
        step_words=_STEP_WORDS,
        spins_to_help=_SPINS_TO_HELP,
        spins=_SPINS,
        spins_and_yields=_SPINS + _YIELDS,
        core="%core = call i32 @sched_getcpu()" if _CAN_MOVE else "%core = add i32 -1, 0",
        **{"pause": pause, "yield": "call i32 @sched_yield()" if os.name == "posix" else pause},
    )


class _Code:
    """The machine code of a model and of the executor, loaded; the addresses are good for as long as it lives."""

    def __init__(self, source: str, kernels: Sequence[str], progress: Callable[[str], None] | None = None):
        """`progress` is told if the code is not in the cache."""
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        text = f"{source}\n{_executor_text()}"
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        key = CacheKey.of("object", source=text, cpu=cpu, features=features, llvmlite=llvmlite.__version__)
        folder = knobs.cache_dir()
        cache = None if folder is None else DiskCache(folder)
        code = None if cache is None else cache.get(key)
        if code is None:
            if progress is not None:
                progress(f"compiling {len(kernels)} kernels for the cpu")
            code = self._compile(text, cpu, features)
            if cache is not None:
                cache.put(key, code)
        self._jit = llvm.create_lljit_compiler()
        library = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        entries = ("run", "work", "serve", "stop", "read")
        for name in (*kernels, *(f"hamkaas.{entry}" for entry in entries)):
            library.export_symbol(name)
        self._library = library.link(self._jit, "hamkaas")
        self.kernels = {name: self._address(name) for name in kernels}
        self.run, self.work, self.serve, self.stop = (self._entry(entry) for entry in entries[:4])
        self.read = self._address("hamkaas.read")

    @staticmethod
    def _compile(text: str, cpu: str, features: str) -> bytes:
        """Object code for the processor at hand."""
        module = llvm.parse_assembly(text)
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=cpu, features=features, opt=3, reloc="pic", jit=True
        )
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        # Kernels come in vectors already; LLVM's loop vectorizer gains nothing on them, and can fail an assertion
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = False
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
        return machine.emit_object(module)

    def _entry(self, name: str) -> Callable[..., int]:
        """A function of the executor: called without the lock of the interpreter."""
        num_args = 3 if name in ("run", "serve") else 2
        prototype = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_void_p] * num_args)
        return prototype(self._address(f"hamkaas.{name}"))

    def _address(self, name: str) -> int:
        return cast("int", self._library[name])


def _aligned(nbytes: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """Zeros that start at a multiple of `ALIGNMENT`; the pages of a large piece take no memory until they are used."""
    memory = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -_address(memory) % ALIGNMENT
    return memory[start : start + nbytes]


def _settle(specs: Sequence[TensorSpec], weights: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The weights as kernels read them: side by side in one piece of memory, or where they lie.

    They stay there if they are too large. So does one that is in no file, read-only, so that nobody will change it, and
    at a multiple of `ALIGNMENT`: a copy would gain nothing, and have it in memory twice.
    """
    sizes = [-(-spec.nbytes // ALIGNMENT) * ALIGNMENT for spec in specs]
    if not sizes or sum(sizes) > MAX_COPIED_BYTES:
        return [np.ascontiguousarray(weight) for weight in weights]
    memory, start = _aligned(sum(sizes)), 0
    settled: list[np.ndarray] = []
    for spec, size, weight in zip(specs, sizes, weights, strict=True):
        is_constant = weight.flags.c_contiguous and not weight.flags.writeable and _mapping(weight) is None
        if is_constant and _address(weight) % ALIGNMENT == 0:
            settled.append(weight)
            continue
        settled.append(memory[start : start + spec.nbytes].view(spec.numpy_dtype).reshape(spec.shape))
        settled[-1][...] = weight
        start += size
        _let_go(weight)
    return settled


def _let_go(weight: np.ndarray) -> None:
    """Frees the pages of a mapped file that a weight fills: it has been copied, and need not be in memory twice.

    Whoever reads there again gets the same from the file.
    """
    owner = _mapping(weight)
    if owner is None or not hasattr(owner, "madvise"):
        return
    begin = weight.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, (begin + weight.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        owner.madvise(mmap.MADV_DONTNEED, first, last - first)


def _mapping(array: Any) -> mmap.mmap | None:
    """The mapped file that an array lies in, if there is one."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None


def _address(array: Any) -> int:
    """Where the elements of an array lie. Runs for each input and output of each run: `array.ctypes` takes 1 us."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # a read-only array, or a dtype that the buffer protocol has no letter for
        return array.ctypes.data


def _move_away(control: np.ndarray, worker: int) -> bool:
    """Moves this thread to a core that no other worker is on; False if there is none, or if it may not.

    Linux may leave two threads on one core for seconds while another core idles. The new mask makes it move the
    thread at once; with the old one back, it is free to move it again.
    """
    if sys.platform != "linux":
        return False
    cores = control.view(np.int64).reshape(-1, _LINE)[2:, 2]
    allowed = os.sched_getaffinity(0)
    free = allowed - {int(core) for other, core in enumerate(cores) if other != worker}
    if not free:
        return False
    try:
        os.sched_setaffinity(0, free)
        os.sched_setaffinity(0, allowed)
    except OSError:
        return False
    return True


class _Pool:
    """The worker threads 1 to n - 1 and the memory through which they are told what to do."""

    def __init__(self, code: _Code, num_workers: int):
        self.code = code
        self._memory = _aligned(8 * _LINE * (num_workers + 2))
        self._memory.view(np.int64).reshape(-1, _LINE)[2:, 2] = -1  # nobody is on a core yet
        self.control = _address(self._memory)
        ctypes.c_uint64.from_address(self.control + 8 * (_LINE + 4)).value = 1  # the number of the first step of all
        self._sleeping = ctypes.c_uint64.from_address(self.control + 8 * (_LINE + 2))
        self._wake_ups = [threading.Lock() for _ in range(num_workers)]
        self._threads: list[threading.Thread] = []
        for worker in range(1, num_workers):
            self._wake_ups[worker].acquire()
            args = (code, self._memory, worker, self._wake_ups[worker])
            thread = threading.Thread(target=self._serve, args=args, name=f"hamkaas-{worker}", daemon=True)
            thread.start()
            self._threads.append(thread)

    @staticmethod
    def _serve(code: _Code, memory: np.ndarray, worker: int, wake_up: threading.Lock) -> None:
        """What a thread does; it keeps alive what the native code reads, and not the runtime."""
        control = _address(memory)
        watches = _CAN_MOVE
        while (news := code.serve(control, worker, watches)) != _STOPPED:
            if news == _CROWDED:
                watches = _move_away(memory, worker)
            else:
                wake_up.acquire()

    def run(self, job: int, io: int) -> None:
        """Runs a job from start to end."""
        try:
            if self.code.run(self.control, job, io):
                self._wake_and_work()
        except BaseException:
            # An interrupt between the two halves: workers are in the job already and wait for this one. The handler
            # does again what may have been done, which is harmless: a worker that is woken for nothing parks again.
            if self._sleeping.value:
                self._wake_and_work()
            raise

    def _wake_and_work(self) -> None:
        sleeping = self._sleeping.value
        for worker, wake_up in enumerate(self._wake_ups):
            if sleeping >> worker & 1 and wake_up.locked():
                wake_up.release()
        self.code.work(self.control, 0)

    def stop(self) -> None:
        """Ends the threads; there must be no job in progress."""
        for worker in range(1, len(self._threads) + 1):
            if self.code.stop(self.control, worker) and self._wake_ups[worker].locked():
                self._wake_ups[worker].release()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._threads.clear()


@dataclass(frozen=True)
class _Plan:
    """A program in the form that the executor walks."""

    job: int
    """Address of the job; the tables that it points to are in `memory`."""
    io: "ctypes.Array[ctypes.c_uint64]"
    """The addresses of inputs and outputs, filled in for each run."""
    io_address: int
    outputs: tuple[tuple[tuple[int, ...], np.dtype], ...]
    num_workers: int
    memory: tuple[np.ndarray, ...]
    name: str
    faults: tuple[str, ...]


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1  # pyright: ignore
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_workers(program: Program, limit: int) -> int:
    """The number of workers for a program: as many as there is work for, and not more than `limit`."""
    cost = sum(step.nbytes if isinstance(step, Copy) else step.cost for step in program.native_steps)
    return max(1, min(limit, cost // BYTES_PER_WORKER))


@dataclass(frozen=True)
class Schedule:
    """Who does a step, in how many pieces each, and whether all pieces before it have to be finished first."""

    workers: int
    pieces: int
    barrier: bool


def schedule(steps: Sequence[Launch | Copy], num_workers: int) -> list[Schedule]:
    """Gives small steps and copies to worker 0, and leaves out the barriers that only separate its own steps.

    A barrier that is left out is owed: the next step that other workers take part in must have it. Between two
    barriers there is one step of several workers at most, so that a worker who waits knows what to help with.
    """
    result: list[Schedule] = []
    alone, owed = True, False  # since the last barrier: only worker 0 has worked; a barrier was left out
    for step in steps:
        workers = pieces = 1
        if isinstance(step, Launch) and step.cost >= BYTES_PER_SHARED_STEP and min(step.grid, num_workers) > 1:
            workers = min(step.grid, num_workers)
            pieces = max(1, min(MAX_PIECES, step.grid // workers, step.cost // workers // BYTES_PER_PIECE))
        owed |= step.barrier
        barrier = (owed and workers > 1) if alone else (owed or workers > 1)
        if barrier:
            alone, owed = True, False
        alone &= workers == 1
        result.append(Schedule(workers, pieces, barrier))
    return result


class CpuRuntime:
    """A compiled model with its weights, states and worker threads. Calls from several threads take turns."""

    def __init__(
        self,
        artifact: Artifact,
        weights: Iterable[np.ndarray],
        *,
        workers: int | None = None,
        progress: Callable[[str], None] | None = None,
    ):
        """Compiles the code, or takes it from the cache.

        `weights` may be memory-mapped and read-only; if they are large, they are used where they lie (see
        `MAX_COPIED_BYTES`). `workers` (or HAMKAAS_WORKERS) is the number of workers of every program; without it, it
        depends on the cores and on the size of the program.
        """
        code = _Code(artifact.source, [kernel.name for kernel in artifact.kernels], progress)
        self._lock = threading.Lock()
        self._weights = _settle(artifact.weights, weights)
        self._states = [_aligned(state.nbytes) for state in artifact.states]
        self._arena = _aligned(artifact.arena_bytes)
        self._status = ctypes.c_int64(0)
        self._bases = {
            Space.ARENA: [_address(self._arena)],
            Space.WEIGHT: [_address(weight) for weight in self._weights],
            Space.STATE: [_address(state) for state in self._states],
            Space.STATUS: [ctypes.addressof(self._status)],
        }
        wanted = workers or knobs.WORKERS.get()
        counts = [
            max(1, min(wanted, MAX_WORKERS)) if wanted else choose_workers(program, min(available_cores(), MAX_WORKERS))
            for program in artifact.programs
        ]
        self._plans = [
            self._plan(program, count, code) for program, count in zip(artifact.programs, counts, strict=True)
        ]
        self._num_workers = max(counts, default=1)
        self._pool = _Pool(code, self._num_workers)
        self._readings: dict[int, _Reading] = {}
        self._finalizer = weakref.finalize(self, self._pool.stop)  # at the end of the interpreter too

    def _plan(self, program: Program, num_workers: int, code: _Code) -> _Plan:
        """The table of steps of a program."""
        steps = program.native_steps
        slots = [ref for step in steps for ref in _refs(step)]
        args = np.zeros(max(1, len(slots)), np.int64)
        table = np.zeros((len(steps), _STEP_WORDS), np.int64)
        patches: list[tuple[int, int, int]] = []
        for slot, ref in enumerate(slots):
            if ref.space in self._bases:
                args[slot] = self._bases[ref.space][ref.index] + ref.offset
            else:
                index = ref.index + (len(program.inputs) if ref.space is Space.OUTPUT else 0)
                patches.append((_address(args) + 8 * slot, index, ref.offset))
        slot = num_pieces = 0
        for row, step, who in zip(table, steps, schedule(steps, num_workers), strict=True):
            function, size = (0, step.nbytes) if isinstance(step, Copy) else (code.kernels[step.kernel], step.grid)
            args_at = _address(args) + 8 * slot
            row[:7] = (function, args_at, size, who.workers, who.barrier, num_pieces, who.pieces)
            slot += len(_refs(step))
            num_pieces += who.workers * who.pieces
        patch_table = np.array(patches, np.int64)
        job = np.array(
            [_address(table), len(table), num_workers, _address(patch_table), len(patches), num_pieces], np.int64
        )
        io = (ctypes.c_uint64 * max(1, len(program.inputs) + len(program.outputs)))()
        return _Plan(
            job=_address(job),
            io=io,
            io_address=ctypes.addressof(io),
            outputs=tuple((output.shape, output.numpy_dtype) for output in program.outputs),
            num_workers=num_workers,
            memory=(args, table, patch_table, job),
            name=program.name,
            faults=program.faults,
        )

    @property
    def num_workers(self) -> int:
        """The number of workers of the largest program, the caller being one."""
        return self._num_workers

    def run(self, program: int, inputs: Sequence[np.ndarray], times: int = 1) -> list[np.ndarray]:
        """Runs a program, several times in a row if asked to; the outputs are new arrays, of the last run.

        The inputs have the right shapes and dtypes.
        """
        with self._lock:
            if not self._finalizer.alive:
                raise RuntimeFault("the model is closed")
            plan = self._plans[program]
            arrays = [x if x.flags.c_contiguous else np.ascontiguousarray(x) for x in inputs]
            outputs = [np.empty(shape, dtype) for shape, dtype in plan.outputs]
            arrays += outputs
            io = plan.io
            for i, array in enumerate(arrays):
                io[i] = _address(array)
            for _ in range(times):
                self._pool.run(plan.job, plan.io_address)
                if self._status.value:
                    self._raise_fault(plan)
            return outputs

    def bandwidth(self, program: int) -> float | None:
        """Bytes per second at which the workers of a program read weights if they do nothing else.

        These are the weights themselves, where they lie, or 256 MB of them: in the caches if they fit, and without
        memory of its own. The best of several runs; None for a model that has no weights.
        """
        with self._lock:
            if not self._finalizer.alive:
                raise RuntimeFault("the model is closed")
            if program not in self._readings:
                self._readings[program] = _Reading(self._weights, self._plans[program].num_workers, self._pool.code)
            reading = self._readings[program]
            if not reading.nbytes:
                return None
            seconds: list[float] = []
            started = time.perf_counter()
            while len(seconds) < 4 or time.perf_counter() - started < SECONDS_TO_READ:
                begun = time.perf_counter()
                self._pool.run(reading.job, 0)
                seconds.append(time.perf_counter() - begun)
            return reading.nbytes / min(seconds[1:])

    def _raise_fault(self, plan: _Plan) -> None:
        """Raises what the kernels found wrong, and forgets it."""
        fault, self._status.value = self._status.value, 0
        text = plan.faults[fault - 1] if 0 < fault <= len(plan.faults) else f"fault {fault}"
        raise RuntimeFault(f"program '{plan.name}': {text}")

    def reset(self) -> None:
        """Sets all states to zero, as they were at the start."""
        with self._lock:
            for state in self._states:
                state[:] = 0

    def close(self) -> None:
        """Ends the worker threads and lets go of the memory; may be called more than once."""
        with self._lock:
            self._finalizer()
            self._plans, self._weights, self._states, self._arena = [], [], [], _aligned(0)


class _Reading:
    """A job that does nothing but read weights. It must live as long as the pool: late workers walk its table."""

    def __init__(self, weights: Sequence[np.ndarray], workers: int, code: _Code):
        """`job` is its address, and `nbytes` what it reads."""
        blocks = np.array(list(_blocks_to_read(weights)), np.int64).reshape(-1, 2)
        workers = max(1, min(workers, len(blocks)))
        pieces = 1 if workers == 1 else max(1, min(MAX_PIECES, len(blocks) // workers))
        nbytes = int(blocks[:, 1].sum())
        times = -(-BYTES_PER_READING // nbytes) if nbytes else 0
        table = np.zeros((times, _STEP_WORDS), np.int64)
        table[:, :5] = (code.read, _address(blocks), len(blocks), workers, workers > 1)
        table[:, 5] = np.arange(times) * workers * pieces
        table[:, 6] = pieces
        job = np.array([_address(table), times, workers, 0, 0, times * workers * pieces], np.int64)
        self.job = _address(job)
        self.nbytes = times * nbytes
        self._memory = (blocks, table, job)


def _blocks_to_read(weights: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """(address, bytes) of blocks of weights, from the last weight on: the first is a table of which little is read."""
    left = BYTES_TO_READ
    for weight in reversed(weights):
        start, size = _address(weight), min(weight.nbytes, left) // 256 * 256
        left -= size
        for at in range(0, size, BYTES_PER_BLOCK):
            yield start + at, min(BYTES_PER_BLOCK, size - at)


def _refs(step: Launch | Copy) -> tuple[BufferRef, ...]:
    """The arguments of a step, in the order in which the executor reads them."""
    return (step.source, step.target) if isinstance(step, Copy) else step.args
