//! Turns verdicts on call numbers into a filter program (classic BPF).
//!
//! The program checks the architecture, then searches the number in a binary tree of comparisons. The kernel compiles and
//! tries out the whole program at each start of a worker, so it is kept short: equal verdicts share one leaf.
//!
//! It is assembled from its end, because jumps lead forwards only: the place of what follows is then known. A comparison
//! reaches 255 instructions; what lies further away is reached by way of a jump of the 32-bit form.

use std::collections::BTreeMap;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    /// It fails with this error.
    Refuse(i32),
    /// It fails with EPERM if any of these bits is set in the low half of this argument.
    RefuseBits {
        argument: u32,
        bits: u32,
    },
    /// It fails with EPERM if the low half of this argument is one of these values.
    RefuseValues {
        argument: u32,
        values: [u32; 2],
    },
    /// It fails with EPERM unless the low half of this argument is this value.
    RefuseOthers {
        argument: u32,
        value: u32,
    },
}

/// What a filter sees as the architecture of a call (`AUDIT_ARCH_*`), for those with a filter here.
pub(super) const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xC000_003E)
} else if cfg!(target_arch = "aarch64") {
    Some(0xC000_00B7)
} else {
    None
};

/// First number of the x32 ABI, which an x86_64 kernel may serve under the same architecture; no other number is as high.
const X32_FIRST: u32 = 0x4000_0000;

// Instructions, from the kernel's `bpf_common.h`.
const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const JUMP_IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
// Offsets in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const CALL_ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A filter program.
#[derive(Debug)]
pub(crate) struct Program {
    instructions: Vec<libc::sock_filter>,
}

impl Program {
    pub(super) fn new(architecture: u32, verdicts: &BTreeMap<u32, Verdict>) -> Self {
        let mut assembly = Assembly::default();
        let root = assembly.search(&spans(verdicts));
        assembly.continue_at(root);
        assembly.push(step(LOAD, NUMBER));
        // A call of another architecture, such as 32-bit x86, has other numbers: nothing good comes of it.
        assembly.push(step(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
        assembly.push(jump(JUMP_IF_EQUAL, architecture, 1, 0));
        assembly.push(step(LOAD, CALL_ARCHITECTURE));
        let mut instructions = assembly.reversed;
        instructions.reverse();
        Self { instructions }
    }

    /// The form that the kernel takes; valid as long as this program is not dropped.
    pub(crate) fn as_raw(&self) -> libc::sock_fprog {
        libc::sock_fprog {
            // The kernel's own limit is 4096 instructions; a longer program is refused by it.
            len: u16::try_from(self.instructions.len()).unwrap_or(u16::MAX),
            filter: self.instructions.as_ptr().cast_mut(),
        }
    }
}

fn step(code: u16, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// All numbers from 0 up, as first number and verdict of each run of equal verdicts.
fn spans(verdicts: &BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let mut spans = vec![(0, Verdict::Allow)];
    let mut push = |first: u32, verdict: Verdict| match spans.last_mut() {
        Some(last) if last.1 == verdict => {}
        Some(last) if last.0 == first => last.1 = verdict,
        _ => spans.push((first, verdict)),
    };
    let mut next = 0;
    for (&number, &verdict) in verdicts {
        if number > next {
            push(next, Verdict::Allow);
        }
        push(number, verdict);
        next = number + 1;
    }
    push(next, Verdict::Allow);
    push(X32_FIRST, Verdict::Refuse(libc::EPERM));
    spans
}

/// An instruction of an [`Assembly`], counted from the program's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(usize);

/// A program under construction, last instruction first.
#[derive(Debug, Default)]
struct Assembly {
    reversed: Vec<libc::sock_filter>,
    leaves: Vec<(u32, Place)>,
}

impl Assembly {
    fn push(&mut self, instruction: libc::sock_filter) -> Place {
        self.reversed.push(instruction);
        Place(self.reversed.len() - 1)
    }

    /// Instructions that the next one has to skip to get to `place`.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - 1 - place.0
    }

    /// What comes before continues at `place`.
    fn continue_at(&mut self, place: Place) {
        let distance = self.distance(place);
        if distance > 0 {
            self.push(step(JUMP, u32::try_from(distance).unwrap_or(u32::MAX)));
        }
    }

    /// `place`, or a jump to it if a comparison that is pushed soon cannot reach so far.
    fn within_reach(&mut self, place: Place) -> Place {
        /// The comparison comes after at most one more jump.
        const REACH: usize = u8::MAX as usize - 1;
        if self.distance(place) <= REACH {
            return place;
        }
        let distance = self.distance(place);
        self.push(step(JUMP, u32::try_from(distance).unwrap_or(u32::MAX)))
    }

    /// A comparison that leads to one of two places.
    fn branch(&mut self, code: u16, k: u32, if_true: Place, if_false: Place) -> Place {
        let if_true = self.within_reach(if_true);
        let if_false = self.within_reach(if_false);
        // Both are within reach, even after the second jump.
        let skip = |place| u8::try_from(self.distance(place)).unwrap_or(u8::MAX);
        let instruction = jump(code, k, skip(if_true), skip(if_false));
        self.push(instruction)
    }

    fn search(&mut self, spans: &[(u32, Verdict)]) -> Place {
        let [_, .., _] = spans else {
            return self.leaf(spans.first().map_or(Verdict::Allow, |(_, verdict)| *verdict));
        };
        let (low, high) = spans.split_at(spans.len() / 2);
        let if_high = self.search(high);
        let if_low = self.search(low);
        self.branch(JUMP_IF_AT_LEAST, high[0].0, if_high, if_low)
    }

    fn leaf(&mut self, verdict: Verdict) -> Place {
        let load = |argument: u32| step(LOAD, ARGUMENTS + 8 * argument);
        match verdict {
            Verdict::Allow => self.answer(libc::SECCOMP_RET_ALLOW),
            Verdict::Refuse(errno) => self.answer(libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
            Verdict::RefuseBits { argument, bits } => {
                let (refuse, allow) = (self.leaf(Verdict::Refuse(libc::EPERM)), self.leaf(Verdict::Allow));
                self.branch(JUMP_IF_ANY_BIT, bits, refuse, allow);
                self.push(load(argument))
            }
            Verdict::RefuseValues { argument, values: [one, other] } => {
                let (refuse, allow) = (self.leaf(Verdict::Refuse(libc::EPERM)), self.leaf(Verdict::Allow));
                let neither = self.branch(JUMP_IF_EQUAL, other, refuse, allow);
                self.branch(JUMP_IF_EQUAL, one, refuse, neither);
                self.push(load(argument))
            }
            Verdict::RefuseOthers { argument, value } => {
                let (refuse, allow) = (self.leaf(Verdict::Refuse(libc::EPERM)), self.leaf(Verdict::Allow));
                self.branch(JUMP_IF_EQUAL, value, allow, refuse);
                self.push(load(argument))
            }
        }
    }

    /// The one place that returns this answer.
    fn answer(&mut self, answer: u32) -> Place {
        if let Some((_, place)) = self.leaves.iter().find(|(known, _)| *known == answer) {
            return *place;
        }
        let place = self.push(step(RETURN, answer));
        self.leaves.push((answer, place));
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Network;
    use crate::seccomp::refused::verdicts;

    /// What the kernel would answer: an interpreter of the instructions used here.
    fn run(program: &Program, architecture: u32, number: u32, arguments: [u32; 2]) -> (u32, usize) {
        let words = |offset: u32| match offset {
            NUMBER => number,
            CALL_ARCHITECTURE => architecture,
            16 => arguments[0],
            24 => arguments[1],
            other => panic!("loads from {other}"),
        };
        let (mut at, mut accumulator, mut steps) = (0_usize, 0_u32, 0);
        loop {
            let one = program.instructions[at];
            steps += 1;
            at += 1;
            let branch = |taken: bool| usize::from(if taken { one.jt } else { one.jf });
            match one.code {
                LOAD => accumulator = words(one.k),
                JUMP => at += one.k as usize,
                JUMP_IF_EQUAL => at += branch(accumulator == one.k),
                JUMP_IF_AT_LEAST => at += branch(accumulator >= one.k),
                JUMP_IF_ANY_BIT => at += branch(accumulator & one.k != 0),
                RETURN => return (one.k, steps),
                other => panic!("no such instruction: {other}"),
            }
        }
    }

    const NATIVE: u32 = 0xC000_003E;

    #[test]
    fn every_number_gets_its_verdict_in_few_steps() {
        for network in [Network::None, Network::Host] {
            let verdicts = verdicts(network);
            let program = Program::new(NATIVE, &verdicts);
            for number in (0..2048).chain(X32_FIRST - 2..X32_FIRST + 2048).chain([u32::MAX]) {
                let refuse = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
                for arguments in [[0, 0], [1, 0], [libc::CLONE_NEWUSER.cast_unsigned(), 0x5412], [2, 0x541C], [10, 5]] {
                    let expected = match verdicts.get(&number).copied().unwrap_or(Verdict::Allow) {
                        _ if number >= X32_FIRST => refuse(libc::EPERM),
                        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
                        Verdict::Refuse(errno) => refuse(errno),
                        Verdict::RefuseBits { argument, bits } if arguments[argument as usize] & bits != 0 => {
                            refuse(libc::EPERM)
                        }
                        Verdict::RefuseValues { argument, values }
                            if values.contains(&arguments[argument as usize]) =>
                        {
                            refuse(libc::EPERM)
                        }
                        Verdict::RefuseOthers { argument, value } if arguments[argument as usize] != value => {
                            refuse(libc::EPERM)
                        }
                        _ => libc::SECCOMP_RET_ALLOW,
                    };
                    let (answer, steps) = run(&program, NATIVE, number, arguments);
                    assert_eq!(answer, expected, "call {number} with {arguments:?}");
                    assert!(steps <= 32, "{steps} steps for call {number}");
                }
            }
        }
    }

    #[test]
    fn a_list_too_long_for_short_jumps_is_searched_as_well() {
        let errno = |number: u32| i32::try_from(number % 7).unwrap() + 1;
        let verdicts = (0..900).map(|number| (2 * number, Verdict::Refuse(errno(number)))).collect();
        let program = Program::new(NATIVE, &verdicts);
        for number in 0..1800 {
            let refuse = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
            let expected = if number % 2 == 0 { refuse(errno(number / 2)) } else { libc::SECCOMP_RET_ALLOW };
            assert_eq!(run(&program, NATIVE, number, [0, 0]).0, expected, "call {number}");
        }
    }

    #[test]
    fn the_program_is_short() {
        let verdicts = verdicts(Network::None);
        let program = Program::new(NATIVE, &verdicts);
        // A run of refused calls has two ends, each a comparison; what is conditional or shared takes a few more.
        assert!(program.instructions.len() <= 2 * verdicts.len() + 24, "{} instructions", program.instructions.len());
    }

    #[test]
    fn another_architecture_is_killed() {
        let program = Program::new(NATIVE, &verdicts(Network::Host));
        assert_eq!(run(&program, 0x4000_0003, 1, [0, 0]).0, libc::SECCOMP_RET_KILL_PROCESS);
    }
}
