//! What Redis does in one step.
//!
//! ```text
//! PREFIX:folders                  sorted set    all folders; all scores are 0, so it is in the order of its texts
//! PREFIX:index:FOLDER             sorted set    numbers of the folder's blobs, likewise
//! PREFIX:manifest:FOLDER          hash          r: revision, b: bytes
//! PREFIX:blob:FOLDER:NUMBER       string
//! PREFIX:part:FOLDER:NUMBER:TRY   string        a blob that is being written; Redis forgets it if nobody goes on
//! ```
//!
//! A blob's entry in the index comes with its last byte, and goes with the blob. Folders are written with `!` between
//! their parts, which sorts before every byte that names have.

use ::redis::Script;

/// `KEYS`: part, blob, index, folders. `ARGV`: number, folder, bytes. Makes of a part that is complete a blob; 0: it is not
/// that long.
const FINISH: &str = "
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[3]) then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('PERSIST', KEYS[2])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
redis.call('ZADD', KEYS[4], 0, ARGV[2])
return 1";

/// `KEYS`: manifest, folders. `ARGV`: revision to be replaced or nothing, new revision, bytes, folder. 1: it is published, also
/// when this very publish was before, and its answer was lost.
const PUBLISH: &str = "
local present = redis.call('HGET', KEYS[1], 'r') or ''
if present == ARGV[2] then return 1 end
if present ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'r', ARGV[2], 'b', ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[4])
return 1";

/// `KEYS`: index, manifest, folders, blobs. `ARGV`: folder, numbers of the blobs. Removes them, and the folder with the last.
const REMOVE: &str = "
for at = 4, #KEYS do
  redis.call('UNLINK', KEYS[at])
  redis.call('ZREM', KEYS[1], ARGV[at - 2])
end
if redis.call('EXISTS', KEYS[1], KEYS[2]) == 0 then redis.call('ZREM', KEYS[3], ARGV[1]) end
return 1";

/// `KEYS`: index. `ARGV`: what blobs' keys begin with, after which number, how many. Numbers and lengths.
const LIST: &str = "
local listed = {}
for _, number in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], '+', 'LIMIT', 0, ARGV[3])) do
  listed[#listed + 1] = number
  listed[#listed + 1] = tostring(redis.call('STRLEN', ARGV[1] .. number))
end
return listed";

/// All of them. Redis keeps each after its first use, and is given it again when it has forgotten it.
pub(super) struct Scripts {
    pub(super) finish: Script,
    pub(super) publish: Script,
    pub(super) remove: Script,
    pub(super) list: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let [finish, publish, remove, list] = [FINISH, PUBLISH, REMOVE, LIST].map(Script::new);
        Self { finish, publish, remove, list }
    }
}
