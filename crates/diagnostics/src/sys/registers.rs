//! The registers that it takes to walk a stack.

/// The registers that it takes to walk a stack, as they were when the thread was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Registers {
    /// The instruction that is next.
    pub instruction_pointer: u64,
    /// The innermost end of the stack.
    pub stack_pointer: u64,
    /// The frame of the function, if it keeps one; anything otherwise.
    pub frame_pointer: u64,
    /// Where the function returns to, on architectures that keep this in a register; else zero.
    pub link_register: u64,
}

/// How long the instruction of a system call is, in bytes.
pub(super) const CALL_LENGTH: u64 = if cfg!(target_arch = "x86_64") { 2 } else { 4 };

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// The ones of the function that this is inlined into.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (instruction_pointer, stack_pointer, frame_pointer);
        // SAFETY: three registers are copied into three others; no memory and no flag is touched.
        unsafe {
            std::arch::asm!(
                "lea {}, [rip]",
                "mov {}, rsp",
                "mov {}, rbp",
                out(reg) instruction_pointer,
                out(reg) stack_pointer,
                out(reg) frame_pointer,
                options(nomem, nostack, preserves_flags),
            );
        }
        Self { instruction_pointer, stack_pointer, frame_pointer, link_register: 0 }
    }

    pub(crate) fn for_unwinding(&self, _highest_code_address: u64) -> framehop::UnwindRegsNative {
        framehop::UnwindRegsNative::new(self.instruction_pointer, self.stack_pointer, self.frame_pointer)
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    /// The ones of the function that this is inlined into.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let (instruction_pointer, stack_pointer, frame_pointer, link_register);
        // SAFETY: four registers are copied into four others; no memory and no flag is touched.
        unsafe {
            std::arch::asm!(
                "adr {}, .",
                "mov {}, sp",
                "mov {}, x29",
                "mov {}, x30",
                out(reg) instruction_pointer,
                out(reg) stack_pointer,
                out(reg) frame_pointer,
                out(reg) link_register,
                options(nomem, nostack, preserves_flags),
            );
        }
        Self { instruction_pointer, stack_pointer, frame_pointer, link_register }
    }

    pub(crate) fn for_unwinding(&self, highest_code_address: u64) -> framehop::UnwindRegsNative {
        // Return addresses may be signed in the bits that no address of this process has.
        let mask = framehop::aarch64::PtrAuthMask::from_max_known_address(highest_code_address);
        framehop::UnwindRegsNative::new_with_ptr_auth_mask(
            mask,
            self.link_register,
            self.stack_pointer,
            self.frame_pointer,
        )
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// The ones that were interrupted by a signal.
    pub(super) fn interrupted(context: &libc::ucontext_t) -> Self {
        let register = |index: libc::c_int| context.uc_mcontext.gregs[index as usize] as u64;
        Self {
            instruction_pointer: register(libc::REG_RIP),
            stack_pointer: register(libc::REG_RSP),
            frame_pointer: register(libc::REG_RBP),
            link_register: 0,
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    /// The ones that were interrupted by a signal.
    pub(super) fn interrupted(context: &libc::ucontext_t) -> Self {
        let machine = &context.uc_mcontext;
        Self {
            instruction_pointer: machine.pc,
            stack_pointer: machine.sp,
            frame_pointer: machine.regs[29],
            link_register: machine.regs[30],
        }
    }
}

/// Where the C library keeps what belongs to the calling thread.
#[cfg(target_arch = "x86_64")]
pub(super) fn thread_pointer() -> u64 {
    let pointer;
    // SAFETY: the x86-64 ABI has the address of the thread's own area in its first word.
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags)) };
    pointer
}

/// Where the C library keeps what belongs to the calling thread.
#[cfg(target_arch = "aarch64")]
pub(super) fn thread_pointer() -> u64 {
    let pointer;
    // SAFETY: a register is copied into another.
    unsafe { std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// The ones of a thread that is traced.
    pub(super) fn traced(registers: &libc::user_regs_struct) -> Self {
        Self {
            instruction_pointer: registers.rip,
            stack_pointer: registers.rsp,
            frame_pointer: registers.rbp,
            link_register: 0,
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Registers {
    /// The ones of a thread that is traced.
    pub(super) fn traced(registers: &libc::user_regs_struct) -> Self {
        Self {
            instruction_pointer: registers.pc,
            stack_pointer: registers.sp,
            frame_pointer: registers.regs[29],
            link_register: registers.regs[30],
        }
    }
}
