/* SPDX-License-Identifier: MIT */
#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

#include <stdio.h>
#include <time.h>

/* The last microsecond that RFC 3339 can write: years have four digits. */
#define LAST_US (INT64_C(253402300799) * 1000000 + 999999)

static int64_t read_clock(clockid_t clock, int64_t per_second)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * per_second + now.tv_nsec / (1000000000 / per_second);
}

int64_t mqfs_clock_monotonic_ms(void)
{
	return read_clock(CLOCK_MONOTONIC, 1000);
}

int64_t mqfs_clock_boottime_ms(void)
{
	return read_clock(CLOCK_BOOTTIME, 1000);
}

int64_t mqfs_clock_realtime_us(void)
{
	return read_clock(CLOCK_REALTIME, 1000000) + FAILPOINT_CLOCK_STEP_US();
}

char *mqfs_clock_rfc3339(int64_t time_us, char buffer[MQFS_RFC3339_BYTES])
{
	char date[MQFS_RFC3339_BYTES - 8];
	struct tm tm;
	time_t seconds;

	/* A stranger's header may claim any time. */
	if (time_us < 0)
		time_us = 0;
	if (time_us > LAST_US)
		time_us = LAST_US;
	seconds = time_us / 1000000;
	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buffer, MQFS_RFC3339_BYTES, "%s.%06uZ", date, (unsigned)(time_us % 1000000));
	return buffer;
}
