//! Snapshots: what is written comes back, generation after generation; whatever is damaged says so; whatever fails leaves what
//! was there.
//!
//! Random tests print `PRAAS_SEED`, which repeats them.

mod amendments;
mod damage;
mod faults;
mod files;
mod generations;
mod golden;
mod model;
mod owners;
#[path = "../conformance/random.rs"]
mod random;
mod sizes;
