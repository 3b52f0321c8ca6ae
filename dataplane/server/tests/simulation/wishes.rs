//! What the clients of a run want, as its seed has it.

use praas_protocol::ProcessId;

use crate::functions::{KEYED, OBJECTS};
use crate::model::{Operation, model};
use crate::run::{PROCESSES, Run};
use crate::wish::{CALLS_DEEP_MAX, Wish};

impl Run {
    pub(crate) fn step_some_client(&mut self) {
        let index = usize::try_from(self.random.below(self.clients.len() as u64)).expect("an index");
        if self.clients[index].work.is_none() {
            let process = self.processes[usize::try_from(self.random.below(PROCESSES)).expect("an index")];
            let wish = self.some_wish(index, &process);
            self.begin(index, wish, process);
        }
        self.step_client(index);
    }

    /// The first client is the only one that creates and stops: what becomes of it is known in order.
    pub(crate) fn some_wish(&mut self, client: usize, process: &ProcessId) -> Wish {
        if client == 0 {
            let is_there = model(|model| model.is_there(process));
            return match self.random.below(12) {
                // Who asks for it learns whether it is there.
                _ if !model(|model| model.is_settled(process)) => Wish::Restore,
                _ if !is_there => Wish::Create,
                0 => Wish::Stop,
                1 => Wish::Restart,
                2..6 => Wish::Swap,
                6..8 => Wish::Restore,
                _ => Wish::Append,
            };
        }
        if self.is_large && self.chance(3) {
            let number = u8::try_from(self.random.below(OBJECTS.into())).expect("small");
            return if self.chance(3) { Wish::Grow { number } } else { Wish::Look { number } };
        }
        match self.random.below(19) {
            0..2 => Wish::Append,
            2..4 => Wish::AppendOnce,
            18 => Wish::AppendOnceAgain { back: u8::try_from(self.random.below(4)).expect("small") },
            4 => Wish::Send { sequence: 0 },
            5 => {
                if self.chance(3) {
                    Wish::Send { sequence: 0 }
                } else {
                    Wish::SendAgain
                }
            }
            6..8 => Wish::Relay { way: self.some_way() },
            8..11 => Wish::Post { to: self.some_number() },
            11..13 => Wish::Remind { seconds: u8::try_from(self.random.below(60)).expect("small") },
            13 => Wish::TakeWake,
            _ => Wish::Take,
        }
    }

    pub(crate) fn some_number(&mut self) -> u8 {
        u8::try_from(self.random.below(PROCESSES)).expect("small")
    }

    /// Those whom a call calls in turn.
    pub(crate) fn some_way(&mut self) -> [Option<u8>; CALLS_DEEP_MAX] {
        let deep = usize::try_from(1 + self.random.below(CALLS_DEEP_MAX as u64)).expect("small");
        let mut way = [None; CALLS_DEEP_MAX];
        for next in way.iter_mut().take(deep) {
            *next = Some(self.some_number() | if self.chance(2) { KEYED } else { 0 });
        }
        way
    }

    pub(crate) fn begin(&mut self, client: usize, wish: Wish, process: ProcessId) {
        // The calls and messages that it brings about have the next ones.
        self.last_operation += Operation::try_from(CALLS_DEEP_MAX).expect("small") + 1;
        self.clients[client].begin(wish, process, self.last_operation);
    }

    pub(crate) fn step_client(&mut self, index: usize) -> bool {
        let did = self.clients[index].step(&self.options.data_directory);
        self.hear_client(index);
        did
    }

    pub(crate) fn hear_client(&mut self, index: usize) {
        let name = self.clients[index].name.clone();
        for said in std::mem::take(&mut self.clients[index].said) {
            self.note(format!("{name} {said}"));
        }
    }
}
