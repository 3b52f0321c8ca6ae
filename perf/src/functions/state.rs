//! The functions of plot `state`: a reduction, which adds the vector that it is sent to its accumulator and stores that in the
//! process's state, in Redis or on S3. Only the last step differs.
//!
//! The accumulator lives in the worker's memory, as in the paper's functions, so its process has one worker.

use std::cell::RefCell;
use std::rc::Rc;
use std::str::FromStr;

use bytes::Bytes;
use praas_client::Function;
use praas_function::{Application, Call, FunctionError, FunctionResult};
use serde::{Deserialize, Serialize};

use crate::baselines::redis::{RedisClient, RedisEndpoint};
use crate::baselines::s3::{S3Client, S3Endpoint};

/// Opens the storage that the input names: a [`Storage`] as JSON.
pub const OPEN: Function<'static> = Function::new("perf-reduce-open");
/// Makes the accumulator as many zeros as the input, a number of eight bytes, says.
pub const CLEAR: Function<'static> = Function::new("perf-reduce-clear");
/// Adds the input's words to the accumulator and stores that.
pub const REDUCE: Function<'static> = Function::new("perf-reduce");

/// What the accumulator is stored as.
pub const KEY: &str = "accumulator";

/// What these functions answer when they cannot do what they are for.
const FAILED_CODE: u32 = 1;

/// Where the accumulator is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// In the state of the function's process.
    Process,
    /// In the Redis at this endpoint.
    Redis(String),
    /// On this S3.
    S3(S3Endpoint),
}

/// The same, open.
enum OpenStorage {
    Process,
    Redis(Box<RedisClient>),
    S3(S3Client),
}

impl OpenStorage {
    fn open(storage: &Storage) -> FunctionResult<Self> {
        match storage {
            Storage::Process => Ok(Self::Process),
            Storage::Redis(endpoint) => {
                let endpoint = RedisEndpoint::from_str(endpoint).map_err(|error| failed(&error))?;
                Ok(Self::Redis(Box::new(RedisClient::connect(&endpoint).map_err(|error| failed(&error))?)))
            }
            Storage::S3(endpoint) => Ok(Self::S3(S3Client::new(endpoint).map_err(|error| failed(&error))?)),
        }
    }

    fn store(&mut self, call: &Call<'_>, bytes: &[u8]) -> FunctionResult {
        match self {
            Self::Process => call.context().put_bytes(KEY, bytes).map(drop)?,
            Self::Redis(client) => client.set(KEY, bytes).map_err(|error| failed(&error))?,
            // The client keeps the body until it is sent: a copy of its own.
            Self::S3(client) => client.put(KEY, Bytes::copy_from_slice(bytes)).map_err(|error| failed(&error))?,
        }
        Ok(())
    }
}

/// A worker's own.
struct Reducer {
    storage: OpenStorage,
    accumulator: Vec<[u8; 8]>,
}

/// Adds them to a worker's application.
pub(super) fn with_state(application: Application) -> Application {
    let reducer = Rc::new(RefCell::new(Reducer { storage: OpenStorage::Process, accumulator: Vec::new() }));
    let [opened, cleared] = [Rc::clone(&reducer), Rc::clone(&reducer)];
    application
        .function(OPEN.name(), move |call: &mut Call| -> FunctionResult {
            let storage: Storage = serde_json::from_slice(call.input()).map_err(|error| failed(&error))?;
            opened.borrow_mut().storage = OpenStorage::open(&storage)?;
            Ok(())
        })
        .function(CLEAR.name(), move |call: &mut Call| -> FunctionResult {
            let elements = call.input().try_into().map(u64::from_le_bytes);
            let elements = elements.ok().and_then(|elements| usize::try_from(elements).ok());
            let elements = elements.ok_or_else(|| failed("the input is no number of elements"))?;
            cleared.borrow_mut().accumulator = vec![[0; 8]; elements];
            Ok(())
        })
        .function(REDUCE.name(), move |call: &mut Call| reduce(&mut reducer.borrow_mut(), call))
}

fn reduce(reducer: &mut Reducer, call: &mut Call<'_>) -> FunctionResult {
    let (vector, rest) = call.input().as_chunks::<8>();
    if vector.len() != reducer.accumulator.len() || !rest.is_empty() {
        return Err(failed("the vector is not as long as the accumulator; call `perf-reduce-clear` first"));
    }
    for (sum, element) in reducer.accumulator.iter_mut().zip(vector) {
        *sum = u64::from_le_bytes(*sum).wrapping_add(u64::from_le_bytes(*element)).to_le_bytes();
    }
    reducer.storage.store(call, reducer.accumulator.as_flattened())
}

#[cold]
fn failed(reason: &(impl ToString + ?Sized)) -> FunctionError {
    FunctionError::new(FAILED_CODE, reason.to_string())
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;

    #[test]
    fn vectors_are_added_up_and_the_sum_is_in_the_state() {
        let read = |call: &mut Call<'_>| -> FunctionResult<Vec<u8>> {
            Ok(call.context().state_bytes(KEY)?.ok_or_else(|| failed("nothing"))?.to_vec())
        };
        let harness = Harness::new(move || with_state(Application::new()).function("read", read)).expect("it is sound");
        let open = serde_json::to_vec(&Storage::Process).expect("it is plain");
        harness.invoke(OPEN.name(), &open).expect("it opens");
        let vector: Vec<u8> = [1_u64, 2, u64::MAX].into_iter().flat_map(u64::to_le_bytes).collect();
        assert!(harness.invoke(REDUCE.name(), &vector).is_err(), "there is no accumulator yet");
        harness.invoke(CLEAR.name(), &3_u64.to_le_bytes()).expect("it clears");
        for _ in 0..3 {
            harness.invoke(REDUCE.name(), &vector).expect("it adds");
        }
        let sum: Vec<u8> = [3_u64, 6, u64::MAX - 2].into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(harness.invoke("read", b"").expect("it is there"), sum);
        assert!(harness.invoke(CLEAR.name(), b"many").is_err());
    }

    #[test]
    fn a_storage_that_is_not_there_is_said() {
        let harness = Harness::new(|| with_state(Application::new())).expect("it is sound");
        let storage = Storage::Redis("/no/such/socket".to_owned());
        let error = harness.invoke(OPEN.name(), &serde_json::to_vec(&storage).expect("it is plain"));
        assert!(error.expect_err("nobody listens").to_string().contains("connect to Redis"));
    }
}
