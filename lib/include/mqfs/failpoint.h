/* SPDX-License-Identifier: MIT */
#ifndef MQFS_FAILPOINT_H
#define MQFS_FAILPOINT_H

#include <stdint.h>

/*
 * Points at which a test ends the process, as kill -9 would. failpoint.def lists them: a name that is not there doesn't
 * compile, and the tests fail when one that is there is never reached. Only the program that the tests use for
 * it (mqfs-failpoints, built with MQFS_FAILPOINTS) has them; in the one that is installed they are nothing at all.
 *
 *   MQFS_FAILPOINT=NAME[:N]   in the environment: it ends at the N-th pass of NAME, at the first without N
 *   MQFS_FAILPOINTS=FILE      the points are a page that is shared with a test (struct failpoints)
 */

#ifdef MQFS_FAILPOINTS

enum failpoint {
#define FAILPOINT_NAME(name) FAILPOINT_##name,
#include <mqfs/failpoint.def>
#undef FAILPOINT_NAME
	FAILPOINTS
};

/* The file's content, in the machine's byte order; zeros at first. */
struct failpoints {
	int64_t clock_step_us; /* by how much the real-time clock was set */
	struct {
		int64_t passed; /* so many times */
		int64_t end_at; /* the process ends at this pass; 0: never */
	} points[FAILPOINTS];
};

/* Passes a point: returns, or not. Any thread. */
void failpoint_pass(enum failpoint point);
int64_t failpoint_clock_step_us(void);

#define FAILPOINT(name) failpoint_pass(FAILPOINT_##name)
#define FAILPOINT_CLOCK_STEP_US() failpoint_clock_step_us()

#else

#define FAILPOINT(name) ((void)0)
#define FAILPOINT_CLOCK_STEP_US() 0

#endif

#endif
