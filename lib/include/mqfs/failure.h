/* SPDX-License-Identifier: MIT */
#ifndef MQFS_FAILURE_H
#define MQFS_FAILURE_H

#include <stdint.h>

#include <mqfs/message.h>

/*
 * A message's history travels in its own headers, so that every host and both backends read the same,
 * and so that a copy in retry or dead letters is complete in itself. Pure; nothing blocks.
 *
 * Headers of mqfs (kind S unless said): mqfs-copy (an id, new in every copy mqfs publishes),
 * mqfs-filename, mqfs-published (l, microseconds since the epoch), mqfs-attempts (l, failed ones),
 * mqfs-max-attempts (l, when granted more than the setting), mqfs-first-failed, mqfs-last-failed,
 * mqfs-next-at, mqfs-dead-at (l, microseconds), mqfs-dead-reason, mqfs-error, mqfs-host, mqfs-queue
 * (the work queue), and what a copy can't carry as such (a copy with expiration vanishes from the
 * dead letters, one with CC goes elsewhere again, a foreign user-id closes the channel):
 * mqfs-expiration, mqfs-user-id, mqfs-cc, mqfs-bcc.
 */

struct mqfs_history {
	int64_t attempts;
	int64_t max_attempts; /* granted; 0: the setting's */
	int64_t published_us; /* 0: unknown. Falls back on the timestamp property. */
	int64_t first_failed_us;
	int64_t last_failed_us;
	int64_t next_at_us;
	int64_t dead_at_us;
	const char *dead_reason; /* point into the message; NULL: none. Falls back on x-death. */
	const char *error;
	const char *host;
};

/* The history's published_us alone: what mqfs noted, or the message's timestamp; 0: unknown. */
int64_t mqfs_published_us(const struct mqfs_message *message);

/* Foreign dead letters, which have x-death only, give attempts, times and reason from there. */
void mqfs_history_read(const struct mqfs_message *message, struct mqfs_history *ret_history);

#define MQFS_REASON_MAX 4096 /* bytes of a failure's reason */

struct mqfs_failed_attempt {
	int64_t attempts; /* failed so far, this one included */
	int64_t now_us;
	int64_t next_at_us; /* for a retry */
	const char *error;  /* at most MQFS_REASON_MAX bytes are kept, cut at a UTF-8 character and made valid UTF-8;
	                       NULL: none */
	const char *dead_reason; /* "max-attempts", "rejected", …: for a burial */
	const char *host;
	const char *queue;
};

/*
 * The copies. Each is a new message that shares the body, has a new mqfs-copy, keeps message-id (one
 * is made when there was none), priority and foreign headers; NULL when out of memory. x-death,
 * x-first-death-*, x-last-death-*, x-delivery-count are dropped in all but the copies for dead letters, which keep
 * what was found as mqfs-x-death. All parked properties (expiration, user-id, CC, BCC) are moved into mqfs's headers.
 */
struct mqfs_message *mqfs_copy_for_retry(const struct mqfs_message *message, const struct mqfs_failed_attempt *attempt);
struct mqfs_message *mqfs_copy_for_dead(const struct mqfs_message *message, const struct mqfs_failed_attempt *attempt);
/* Given back by republishing, or "retry now": nothing counted but takes, which the copy has to carry on (R6: those of
 * this very message that were never settled); the failure's history stays. */
struct mqfs_message *mqfs_copy_for_release(const struct mqfs_message *message, int64_t takes);
/* A dead one, put back by republishing after a look: it is the same to whoever looks, so that mqfs-copy stays, and no
 * message-id is made. */
struct mqfs_message *mqfs_copy_for_dead_again(const struct mqfs_message *message);
/* One more attempt for a dead one: mqfs-max-attempts becomes attempts + 1, dead-* headers go. */
struct mqfs_message *mqfs_copy_for_grant(const struct mqfs_message *message, int64_t next_at_us);
/* A replay or a forward: attempts 0, no history; expiration, CC and BCC come back (user-id does not: the
 * broker refuses foreign ones); published now; priority as given, or the message's own when -1. */
struct mqfs_message *mqfs_copy_afresh(const struct mqfs_message *message, int priority, int64_t now_us);

/* Moves expiration into mqfs's headers, as in copies, which a replay brings back. 0 or -ENOMEM. */
int mqfs_message_park_expiration(struct mqfs_message *message);

/*
 * What every first publication gets (P3): message-id when there is none, mqfs-copy, mqfs-filename,
 * mqfs-published, timestamp, delivery_mode 2, content-type guessed from the name when there is none.
 * 0 or -ENOMEM.
 */
int mqfs_message_stamp(struct mqfs_message *message, const char *file_name, int64_t now_us);

#endif
