//! clone3(2) for a child that borrows its parent's memory and begins in another cgroup.
//!
//! The C library has no function for it that takes a stack, and a child that came back from `syscall(2)` on its parent's
//! stack would destroy what the parent finds there. So the few instructions in which parent and child go separate ways are
//! written out, for the processors that most servers have; for others, as for kernels that do not know the call, the child
//! has to move itself, see [`super::spawn`].

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the child does; it must not return.
pub(super) type Function = extern "C" fn(*mut c_void) -> c_int;

/// `clone_args` of linux/sched.h, as of the kernel that knows cgroups.
#[repr(C, align(8))]
#[derive(Default)]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a child in the cgroup. It runs the function on the stack while this thread waits until it has executed a program
/// or ended. Gives its process id; its pidfd is stored where `pidfd` is.
///
/// # Errors
/// `ENOSYS` where it is not known, and those of clone(2).
///
/// # Safety
/// As of clone(2) with `CLONE_VM` and `CLONE_VFORK`: what the function touches must be sound to share, the stack must be
/// used by nobody else, and the function must never return.
pub(super) unsafe fn clone_into(
    cgroup: BorrowedFd<'_>,
    stack: &mut [u128],
    function: Function,
    argument: *mut c_void,
    pidfd: &mut c_int,
) -> io::Result<c_int> {
    let arguments = Arguments {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP,
        pidfd: std::ptr::from_mut(pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack) as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..Arguments::default()
    };
    // SAFETY: the caller's, and the arguments live until the call is over.
    let result = unsafe { call(&arguments, function, argument) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(result as c_int) }
}

/// As 64 bits; the constant of the libc crate has fewer.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[cfg(target_arch = "x86_64")]
unsafe fn call(arguments: &Arguments, function: Function, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the parent leaves as it came, but for the registers that are declared as changed; those that the call itself
    // changes hold no input. The child begins behind
    // `syscall` with the parent's registers and a stack pointer at the end of its own stack, aligned to 16 bytes as a call
    // wants it; it never comes to the instructions behind `ud2`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {argument}",
            "call {function}",
            "ud2",
            "2:",
            function = in(reg) function,
            argument = in(reg) argument,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(arguments),
            in("rsi") size_of::<Arguments>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn call(arguments: &Arguments, function: Function, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: as for the other processor, with `svc`, and `brk` as what the child never comes to.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, #0",
            "mov x30, #0",
            "mov x0, {argument}",
            "blr {function}",
            "brk #1",
            "2:",
            function = in(reg) function,
            argument = in(reg) argument,
            inlateout("x0") std::ptr::from_ref(arguments) => result,
            in("x1") size_of::<Arguments>(),
            in("x8") libc::SYS_clone3,
            out("x30") _,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn call(_: &Arguments, _: Function, _: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}
