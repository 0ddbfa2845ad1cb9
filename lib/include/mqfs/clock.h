/* SPDX-License-Identifier: MIT */
#ifndef MQFS_CLOCK_H
#define MQFS_CLOCK_H

#include <stddef.h>
#include <stdint.h>

/*
 * The three clocks of mqfs. Deadlines and time-outs use the monotonic one, leases that several
 * processes share use the boot-time one (it runs on through suspend and never steps), and only what
 * people read uses the real-time one. None of these functions blocks or fails.
 */
int64_t mqfs_clock_monotonic_ms(void);
int64_t mqfs_clock_boottime_ms(void);
int64_t mqfs_clock_realtime_us(void);

/* "never": later than every deadline. */
#define MQFS_NEVER INT64_MAX

static inline int64_t mqfs_clock_earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

#define MQFS_RFC3339_BYTES 32

/*
 * Writes time_us (microseconds since the epoch) as RFC 3339 in UTC with microseconds,
 * "2026-01-31T12:00:00.000001Z", into buffer and returns buffer.
 */
char *mqfs_clock_rfc3339(int64_t time_us, char buffer[MQFS_RFC3339_BYTES]);

#endif
