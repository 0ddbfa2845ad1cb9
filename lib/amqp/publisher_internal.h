/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_PUBLISHER_INTERNAL_H
#define MQFS_AMQP_PUBLISHER_INTERNAL_H

#include "hash.h"

#include <mqfs/name.h>

#include "publisher.h"

/*
 * A publication is a job of the publish connection until it is sent; from then on it is on the way, in the
 * lane it was sent in, until the broker says ack or nack. A lane is a channel in confirm mode: its tags count
 * from 1, and an ack may speak for all up to its tag. Before the ack of a message that no queue took there
 * comes a basic.return, which has no tag but the whole message: it is found by its routing key, message-id and
 * mqfs-copy header. (One without these looks like its twins, but so does what becomes of them.)
 *
 * There is one lane that is sent in, and there may be older ones that only wait for their last acks. A new one
 * is opened after a nack, since the broker may go on talking to a quorum queue's former leader in the
 * old one, and of course after the broker closed the channel. It does that when it refuses one message,
 * without saying which, and all others on the way in the lane are gone with it. These are sent again, one
 * at a time: the one at which the channel closes again is the one (a suspect is cleared by its ack).
 * Some arrive twice that way, with the same message-id; none is lost, and none fails for its neighbour. A suspect
 * whose deadline passes is none any more: should it be the one, the channel closes once more.
 *
 * A classic queue nacks when it is full. A quorum queue nacks also while it has no leader, and then is sent to again,
 * in the new lane, a few times; until there is one it waits. Which kind of queue it is, topology finds out.
 *
 * One whose deadline passes on the way is answered, and stays as a shadow in its lane until its ack comes, so
 * that the window bounds what the broker owes us. A queue that never confirms must not fill it for the others: with
 * half of it shadows, the connection is opened anew.
 *
 * All is the owner thread's, but for jobs that wait in the connection's line, and suspects.
 */

#define PUBLISHER_WINDOW 1000

struct lane {
	struct lane *prev, *next;
	amqp_channel_t channel;
	uint64_t serial;
	uint64_t next_tag;
	struct publication *on_the_way; /* uthash by tag, in order */
	unsigned shadows;               /* of these */
};

struct publication {
	struct job job;
	struct publisher *publisher;
	struct mqfs_message *message; /* NULL in a shadow */
	char *queue;
	enum mqfs_place place;
	int64_t level_ms;
	mqfs_done_fn *done; /* NULL in a shadow */
	void *arg;
	uint64_t tag;
	int returned;  /* outcome said by basic.return, or 0 */
	bool suspect;  /* was on the way in a lane that the broker closed */
	bool prepared; /* its place has been made since it was returned */
	unsigned nacks;
	uint64_t nacked_in;              /* the lane, by its serial */
	struct publication *prev, *next; /* in waiting */
	UT_hash_handle hh;
};

struct publisher {
	struct connection *connection;
	struct topology *topology;
	struct lane *lanes;          /* the first is sent in; NULL: none */
	struct publication *waiting; /* utlist: nacked, to be sent again in the next lane */
	uint64_t serials;
	unsigned on_the_way; /* in all lanes, shadows too */
	int64_t earliest_ms; /* no deadline on the way is earlier */
	int64_t reopened_ms;
	bool reopen; /* a nack came */
	bool blocked;
	size_t body_bytes_max; /* learnt from a refusal; 0: unknown */
	amqp_pool_t pool;      /* what one message is encoded from */

	atomic_uint suspects; /* suspect publications that are unanswered */
};

/* confirms.c: what becomes of publications. */
extern const struct frame_events publisher_events;

void publication_end(struct publication *publication, int result, const char *reason); /* answers and frees */
void publication_fail(struct job *job, int result, const char *reason);
void publication_routing_key(const struct publication *publication, mqfs_name_t ret_name);
/* Answers what is on the way and late, and looks for the next deadline. */
void publisher_expire(struct publisher *publisher, int64_t now_ms);
/* Until the next lane is opened, soon, or its deadline passes. */
void publisher_wait(struct publisher *publisher, struct publication *publication);
void lane_remove(struct publisher *publisher, struct lane *lane, struct publication *publication);
void lane_free(struct publisher *publisher, struct lane *lane);

#endif
