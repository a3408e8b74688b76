//! A target as a program: the fuzzer's, or one that does with the files that it is given what the fuzzer would.

/// Makes this crate root a program for one of the targets.
macro_rules! program {
    ($target:ident) => {
        #[cfg(feature = "libfuzzer")]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::$target(data));

        #[cfg(not(feature = "libfuzzer"))]
        fn main() -> std::io::Result<()> {
            for path in std::env::args_os().skip(1) {
                targets::$target(&std::fs::read(&path)?);
            }

            Ok(())
        }
    };
}
