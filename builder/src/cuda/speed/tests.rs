use super::*;

#[test]
fn the_fastest_by_more_than_chance() {
    assert_eq!(fastest(&[100.0, 99.9, 99.95]), 0);
    assert_eq!(fastest(&[100.0, 98.0, 97.9]), 1);
    assert_eq!(fastest(&[100.0, 98.0, 90.0]), 2);
    assert_eq!(fastest(&[100.0, 103.0, 110.0]), 0);
}
