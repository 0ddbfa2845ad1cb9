/* SPDX-License-Identifier: MIT */
#ifndef MQFS_RETRY_H
#define MQFS_RETRY_H

#include <stdbool.h>
#include <stdint.h>

#include <mqfs/settings.h>

/*
 * When a failed message comes back (pure: attempts and a random number in, a decision out).
 */
struct mqfs_retry_decision {
	bool dead;        /* no attempt is left */
	int64_t delay_ms; /* else: how long to wait */
};

/*
 * attempts: how many have failed, this one included (>= 1). max_attempts: the setting, or what the
 * message was granted. random: uniform 64 bits; jitter takes the wait to 0.75..1.25 of
 * base * factor^(attempts-1), which is at most backoff-max.
 */
struct mqfs_retry_decision mqfs_retry_decide(const struct mqfs_settings *settings, int64_t attempts,
                                             int64_t max_attempts, uint64_t random);
uint64_t mqfs_retry_random(void); /* for the above */

/*
 * Delay levels, for brokers that can't wait for an arbitrary time: powers of two of a second, from
 * 2^-3 (125 ms) to 2^21 (24 days). mqfs_retry_level gives the level nearest to delay_ms, always
 * within 0.5 to 2 times of it (inside that range of levels); round_up gives the smallest that is not
 * shorter. mqfs_retry_level_at enumerates all of them, 0 past the end.
 */
int64_t mqfs_retry_level(int64_t delay_ms, bool round_up);
int64_t mqfs_retry_level_at(unsigned index);

#endif
