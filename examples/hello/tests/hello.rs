//! The functions, called over a real lane in this very process: no server is needed.

use praas_function::testing::Harness;

#[test]
fn it_greets() {
    let harness = Harness::new(hello::application).unwrap();
    assert_eq!(harness.invoke("greet", b"world").unwrap(), b"Hello, world!");
    assert!(harness.invoke("greet", &[0xff]).is_err(), "a name is text");
}

#[test]
fn it_finds_the_mean() {
    let harness = Harness::new(hello::application).unwrap();
    let mean: f64 = harness.invoke_typed("mean", &vec![1.0_f64, 2.0, 6.0]).unwrap();
    assert!((mean - 3.0).abs() < 1e-9);
    let nothing: Vec<f64> = Vec::new();
    assert!(harness.invoke_typed::<f64>("mean", &nothing).is_err());
}
