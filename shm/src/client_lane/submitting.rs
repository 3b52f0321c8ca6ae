//! Publishing requests: a cell, an entry, and whom to summon.

use super::*;

impl ClientLane {
    /// Publishes a request and summons a worker where needed. `deadline_ns` is the time remaining, 0 for none; `root` the
    /// root id, 0 for a root call.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing ran, and a loan is given back.
    ///
    /// # Panics
    /// On a loan that another lane lent.
    #[inline]
    pub fn submit(
        &self,
        function: FunctionId,
        payload: Payload<'_>,
        deadline_ns: u64,
        root: u128,
    ) -> Result<Ticket, SubmitError> {
        let copied = matches!(payload, Payload::Bytes(_));
        let submitted =
            self.publish_payload(function, payload, deadline_ns, root).and_then(|ticket| self.after_publish(ticket));
        if copied { submitted.map_err(|error| self.without_loan(error)) } else { submitted }
    }

    /// Publishes a request and summons nobody. Panics on a loan of another lane.
    #[inline]
    pub(super) fn publish_payload(
        &self,
        function: FunctionId,
        payload: Payload<'_>,
        deadline_ns: u64,
        root: u128,
    ) -> Result<Ticket, SubmitError> {
        let (inline, block) = match payload {
            Payload::Bytes(bytes) if bytes.len() <= REQUEST_INLINE_BYTES => (bytes, None),
            Payload::Bytes(bytes) => {
                let mut loan = self.loan(bytes.len())?;
                self.loan_write(&mut loan, 0, bytes);
                (&[][..], Some(loan))
            }
            Payload::Loan(loan) => {
                self.ensure_own(&loan);
                (&[][..], Some(loan))
            }
        };
        self.publish(inline, block, |entry| {
            entry.function.store(function.0, Ordering::Relaxed);
            entry.deadline_ns.store(deadline_ns, Ordering::Relaxed);
            store_root(&entry.root, root);
        })
    }

    /// Takes the block out of an error whose caller gave none.
    #[cold]
    pub(super) fn without_loan(&self, mut error: SubmitError) -> SubmitError {
        if let Some(loan) = error.take_loan() {
            self.return_loan(loan);
        }
        error
    }

    #[inline]
    pub(super) fn publish(
        &self,
        inline: &[u8],
        block: Option<LoanBlock>,
        fill: impl FnOnce(&Entry),
    ) -> Result<Ticket, SubmitError> {
        let mut submission = self.submission.lock();
        if self.is_lost() {
            return Err(SubmitError::Lost { loan: block });
        }
        let Some(cell) = self.free_cell(&mut submission) else {
            let used = self.waiting.len() as u64;
            let what =
                if submission.quarantine.len() * 2 > self.waiting.len() { Bounded::Quarantine } else { Bounded::Cells };
            return Err(SubmitError::Full { what, used, limit: used, loan: block });
        };
        let generation = submission.generations[cell as usize].wrapping_add(1).max(1);
        let descriptor = match &block {
            Some(loan) => halves(loan.bytes, loan.block.offset),
            None => halves(u32::try_from(inline.len()).unwrap_or(u32::MAX), INLINE),
        };
        let cpu = u64::from(self.cpu_hint(&mut submission));
        self.memory.cells()[cell as usize].arm_as(generation, self.first_wait);
        fault::point(Step::ClientCellArmed);
        let published = submission.producer.publish(self.memory.entries(), |entry| {
            entry.target.store(halves(cell, generation), Ordering::Relaxed);
            entry.payload.store(descriptor, Ordering::Relaxed);
            entry.cpu.store(cpu, Ordering::Relaxed);
            copy::store_inline(inline, &entry.inline);
            fault::point(Step::ClientEntryHalfWritten);
            fill(entry);
        });
        match published {
            Ok(position) => {
                submission.generations[cell as usize] = generation;
                self.prepare_next(&mut submission);
                Ok(Ticket { cell, generation, position, request_block: block, attended: false })
            }
            Err(ring::RingFull) => {
                submission.free_cells.push_front(cell);
                let limit = self.memory.entries().len() as u64;
                Err(SubmitError::Full { what: Bounded::Ring, used: limit, limit, loan: block })
            }
        }
    }

    /// Prepares the entry that the next request writes. With several calls in flight it is asked for, so that its fence waits
    /// less for it.
    #[inline]
    pub(super) fn prepare_next(&self, submission: &mut Submission) {
        if submission.free_cells.len() + 1 < self.waiting.len() {
            submission.producer.prefetch_next(self.memory.entries());
        } else {
            submission.producer.look_ahead(self.memory.entries());
        }
    }

    /// The CPU that this client runs on, as of a few requests ago: looking costs 12 ns or more, and it seldom changes
    /// between calls that do not sleep.
    #[inline]
    pub(super) fn cpu_hint(&self, submission: &mut Submission) -> u32 {
        if submission.looks_at_cpu_in == 0 {
            submission.looks_at_cpu_in = spin::REQUESTS_PER_CPU_LOOK;
            self.client_cpu.store(spin::current_cpu(), Ordering::Relaxed);
        }
        submission.looks_at_cpu_in -= 1;
        self.client_cpu.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn after_publish(&self, mut ticket: Ticket) -> Result<Ticket, SubmitError> {
        fault::point(Step::ClientPublished);
        let summon = self.memory.attendance().after_publish();
        let phase = phase_word::after_fence(self.control.phase_atomic());
        if Phase::from_word(phase) != Some(Phase::Active) {
            return self.published_into_a_drain(ticket);
        }
        ticket.attended = summon == Summon::Nobody;
        if !ticket.attended {
            fault::point(Step::ClientBeforeSummon);
            self.summon(summon);
        }
        fault::point(Step::ClientSummoned);
        Ok(ticket)
    }

    /// A drain began before or while the request was published: take it back if nobody has it, else ring the server,
    /// which refuses or lets it pass.
    #[cold]
    pub(super) fn published_into_a_drain(&self, ticket: Ticket) -> Result<Ticket, SubmitError> {
        let phase = self.control.phase();
        if phase == Phase::Closed && ring::retract(self.memory.entries(), ticket.position) {
            let loan = self.put_back(ticket);
            return Err(SubmitError::Unavailable { phase, loan });
        }
        (self.ring_server)();
        Ok(ticket)
    }

    pub(super) fn summon(&self, summon: Summon) {
        match summon {
            Summon::Nobody => {}
            Summon::Doorbell => {
                // A full pipe swallows the ring, and one without readers has nobody to hear it: the server knows who lives.
                if rustix::io::write(&self.doorbell, &[0]).is_err() {
                    (self.ring_server)();
                }
            }
            Summon::AllBusy => self.ask_for_workers(),
        }
    }

    /// Rings the server once until it acknowledges, when it could start another worker.
    pub(super) fn ask_for_workers(&self) {
        if self.control.workers() >= self.workers_max {
            return;
        }
        let next = self.control.rings_acknowledged().wrapping_add(1);
        if self.rung_for.swap(next, Ordering::Relaxed) != next {
            (self.ring_server)();
        }
    }

    pub(super) fn free_cell(&self, submission: &mut Submission) -> Option<u32> {
        if let Some(cell) = submission.free_cells.pop_front() {
            return Some(cell);
        }
        self.sweep(submission);
        submission.free_cells.pop_front()
    }

    /// Frees what abandoned calls held, where they have been answered.
    pub(super) fn sweep(&self, submission: &mut Submission) {
        let Submission { quarantine, free_cells, arena, .. } = submission;
        quarantine.retain(|(cell, generation, block)| {
            let shared = &self.memory.cells()[*cell as usize];
            let answered = shared.is_done(*generation);
            if answered {
                shared.release(*generation);
                free_cells.push_back(*cell);
                if let Some(loan) = block {
                    arena.free(loan.block);
                }
            }
            !answered
        });
    }

    pub(super) fn allocate(&self, submission: &mut Submission, bytes: usize) -> Option<Block> {
        if let Some(block) = submission.arena.allocate(bytes) {
            return Some(block);
        }
        self.sweep(submission);
        submission.arena.allocate(bytes)
    }

    pub(super) fn check_size(&self, bytes: usize) -> Result<(), ()> {
        if bytes <= self.payload_bytes_max as usize { Ok(()) } else { Err(()) }
    }

    pub(super) fn too_large(&self, bytes: usize, loan: Option<LoanBlock>) -> SubmitError {
        SubmitError::TooLarge { limit_bytes: u64::from(self.payload_bytes_max), actual_bytes: bytes as u64, loan }
    }

    pub(super) fn arena_full(&self, submission: &mut Submission) -> SubmitError {
        let limit = u64::from(self.memory.layout().geometry.request_arena_bytes);
        let free = submission.arena.largest_free_bytes() as u64;
        SubmitError::Full { what: Bounded::Arena, used: limit - free, limit, loan: None }
    }

    /// Returns a ticket's cell, and its block to the caller.
    pub(super) fn put_back(&self, ticket: Ticket) -> Option<LoanBlock> {
        self.memory.cells()[ticket.cell as usize].release(ticket.generation);
        self.submission.lock().free_cells.push_back(ticket.cell);
        ticket.request_block
    }
}
