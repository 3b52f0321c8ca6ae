//! The functions of the processes whose sleep is measured: they fill their state with bytes that nothing makes less of, and look
//! at what is there.

use praas_client::Function;
use praas_function::{Application, Call, FunctionError, FunctionResult};

/// Puts objects.
pub(super) const FILL: Function<'static> = Function::new("sleeper-fill");
/// Looks at every byte of one object.
pub(super) const LOOK: Function<'static> = Function::new("sleeper-look");
/// Looks at the first and the last word of many objects; answers how many there were.
pub(super) const LOOK_AT_ENDS: Function<'static> = Function::new("sleeper-look-at-ends");

/// What a function answers that does not find what it must.
const FAILED_CODE: u32 = 1;
/// Odd, and its bits are spread evenly: the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a call of these functions is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Number of the first object.
    pub(super) first: u64,
    /// How many there are.
    pub(super) objects: u64,
    /// Bytes of each, a multiple of 8.
    pub(super) value_bytes: u64,
    /// What their bytes follow from.
    pub(super) seed: u64,
}

impl Content {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let words = [self.first, self.objects, self.value_bytes, self.seed];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn of(call: &Call<'_>) -> FunctionResult<Self> {
        let (words, rest) = call.input().as_chunks::<8>();
        let words: Option<&[[u8; 8]; 4]> = words.try_into().ok().filter(|_| rest.is_empty());
        let [first, objects, value_bytes, seed] =
            words.ok_or_else(|| failed("the input is no content"))?.map(u64::from_le_bytes);
        Ok(Self { first, objects, value_bytes, seed })
    }

    fn words(self) -> u64 {
        self.value_bytes / 8
    }

    /// Which word an object has at a place.
    fn word(self, number: u64, at: u64) -> [u8; 8] {
        mix(mix(self.seed ^ mix(number)).wrapping_add(at.wrapping_mul(STEP))).to_le_bytes()
    }
}

/// The finalizer of splitmix64: as good as chance to whoever compresses.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn key(number: u64) -> String {
    format!("object/{number:08}")
}

/// The application with these functions too.
#[must_use]
pub fn with_sleeper_functions(application: Application) -> Application {
    application.function(FILL.name(), fill).function(LOOK.name(), look).function(LOOK_AT_ENDS.name(), look_at_ends)
}

fn fill(call: &mut Call<'_>) -> FunctionResult {
    let (context, content) = (call.context(), Content::of(call)?);
    let mut value = vec![0; usize::try_from(content.value_bytes)?];
    for number in content.first..content.first + content.objects {
        for (word, at) in value.as_chunks_mut::<8>().0.iter_mut().zip(0..) {
            *word = content.word(number, at);
        }
        context.put_bytes(&key(number), &value)?;
    }
    Ok(())
}

fn look(call: &mut Call<'_>) -> FunctionResult {
    let (context, content) = (call.context(), Content::of(call)?);
    let object = context.state_bytes(&key(content.first))?.ok_or_else(|| failed("the object is not there"))?;
    let (words, rest) = object.as_chunks::<8>();
    let is_right = words.iter().zip(0..).all(|(word, at)| *word == content.word(content.first, at));
    if words.len() as u64 != content.words() || !rest.is_empty() || !is_right {
        return Err(failed("the object has other bytes"));
    }
    Ok(())
}

fn look_at_ends(call: &mut Call<'_>) -> FunctionResult<[u8; 8]> {
    let (context, content) = (call.context(), Content::of(call)?);
    let last = content.words().saturating_sub(1);
    for number in content.first..content.first + content.objects {
        let object = context.state_bytes(&key(number))?.ok_or_else(|| failed("an object is not there"))?;
        let is_long = object.len() as u64 == content.value_bytes;
        let begins = object.first_chunk::<8>() == Some(&content.word(number, 0));
        let ends = object.last_chunk::<8>() == Some(&content.word(number, last));
        if !(is_long && begins && ends) {
            return Err(failed("an object has other bytes"));
        }
    }
    Ok(content.objects.to_le_bytes())
}

#[cold]
fn failed(reason: &str) -> FunctionError {
    FunctionError::new(FAILED_CODE, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;

    #[test]
    fn what_was_put_is_found_and_nothing_else() {
        let harness = Harness::new(|| with_sleeper_functions(Application::new())).expect("the application is sound");
        let content = Content { first: 3, objects: 4, value_bytes: 64, seed: 9 };
        let ask = |function: Function<'static>, content: Content| harness.invoke(function.name(), &content.to_bytes());
        assert!(ask(LOOK, content).is_err(), "nothing is there yet");
        ask(FILL, content).expect("it fills");
        ask(LOOK, content).expect("it is right");
        let count = ask(LOOK_AT_ENDS, content).expect("all are right");
        assert_eq!(count, 4_u64.to_le_bytes());
        for wrong in [Content { seed: 8, ..content }, Content { value_bytes: 72, ..content }] {
            assert!(ask(LOOK, wrong).is_err() && ask(LOOK_AT_ENDS, wrong).is_err(), "{wrong:?}");
        }
        assert!(ask(LOOK_AT_ENDS, Content { objects: 5, ..content }).is_err(), "there are four");
        assert!(harness.invoke(LOOK.name(), b"no content").is_err());
    }

    #[test]
    fn no_two_objects_seeds_or_places_have_the_same_words() {
        let content = Content { first: 0, objects: 2, value_bytes: 16, seed: 1 };
        let other = Content { seed: 2, ..content };
        let mut words =
            [content.word(0, 0), content.word(0, 1), content.word(1, 0), content.word(1, 1), other.word(0, 0)];
        words.sort_unstable();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]), "{words:?}");
    }
}
