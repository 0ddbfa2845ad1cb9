/* SPDX-License-Identifier: MIT */
#include <mqfs/retry.h>

#include <math.h>
#include <sys/random.h>

#include <mqfs/clock.h>

#define LEVEL_MIN_MS INT64_C(125)
#define LEVELS 25 /* 2^-3 s .. 2^21 s */

struct mqfs_retry_decision mqfs_retry_decide(const struct mqfs_settings *settings, int64_t attempts,
                                             int64_t max_attempts, uint64_t random)
{
	double wait_ms, jitter;

	if (attempts >= max_attempts)
		return (struct mqfs_retry_decision){.dead = true};
	/* In floating point an overflow is infinity, which the maximum cuts; nothing wraps around. */
	wait_ms = (double)settings->backoff_base_ms * pow(settings->backoff_factor, (double)attempts - 1);
	wait_ms = fmin(wait_ms, (double)settings->backoff_max_ms);
	jitter = 0.75 + (double)(random >> 11) * 0x1p-54; /* 53 bits, half a unit wide */
	return (struct mqfs_retry_decision){.delay_ms = (int64_t)(wait_ms * jitter)};
}

uint64_t mqfs_retry_random(void)
{
	uint64_t random = 0;

	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
		random = (uint64_t)mqfs_clock_realtime_us() * UINT64_C(0x9E3779B97F4A7C15);
	return random;
}

int64_t mqfs_retry_level_at(unsigned index)
{
	return index < LEVELS ? LEVEL_MIN_MS << index : 0;
}

int64_t mqfs_retry_level(int64_t delay_ms, bool round_up)
{
	int64_t level = LEVEL_MIN_MS;

	for (unsigned i = 1; i < LEVELS && level < delay_ms; i++)
		level *= 2;
	/* level is now the one not shorter; the one before it may be nearer. */
	if (!round_up && level > LEVEL_MIN_MS && delay_ms - level / 2 < level - delay_ms)
		level /= 2;
	return level;
}
