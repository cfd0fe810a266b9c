#include "textflag.h"

// func vfork(flags uintptr, pidfd *int32) (pid, errno uintptr)
//
// The child runs on the parent's stack until it execs. The return address is in
// the link register, which each of the two has for itself.
TEXT ·vfork(SB),NOSPLIT,$0-32
	MOVD	flags+0(FP), R0
	MOVD	$0, R1	// the parent's stack
	MOVD	pidfd+8(FP), R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$220, R8	// clone
	SVC
	CMN	$4095, R0
	BCC	done
	NEG	R0, R0
	MOVD	R0, errno+24(FP)
	MOVD	ZR, pid+16(FP)
	RET
done:
	MOVD	R0, pid+16(FP)
	MOVD	ZR, errno+24(FP)
	RET
