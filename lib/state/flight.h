/* SPDX-License-Identifier: MIT */
#ifndef MQFS_STATE_FLIGHT_H
#define MQFS_STATE_FLIGHT_H

#include "outbox_internal.h"

/* One message of a flight. */
struct slot {
	struct flight *flight;
	int64_t id, position, bytes, due_us;
	struct mqfs_message *message; /* until it is published */

	/* Guarded by the flight's lock. */
	bool finished;
	int result;
	char *reason;

	/* The state's thread's. */
	bool settling; /* the job that runs writes what became of it */
	bool settled;
	bool refused; /* it is KEPT now */
};

/* What is being done to the file just now. */
enum flight_work {
	FLIGHT_TAKE,   /* mark the oldest of the line as in flight */
	FLIGHT_SETTLE, /* write what became of some; and, at the end, take the next or let go of the line */
	FLIGHT_RENEW,  /* the lease */
	FLIGHT_RELEASE /* let go of the line, whatever is on the way */
};

/*
 * The oldest messages of a line, on their way to the broker. While the flight holds the line (its generation is the
 * line's), no other mount sends any of it.
 */
struct flight {
	struct state_job job; /* first: a job is a flight */
	enum flight_work work;
	bool busy; /* the job is with the state */
	struct line *line;
	int64_t line_id;
	int64_t generation;
	int64_t
	    lease_until_ms; /* boot time: what isn't handed over by then is another's to send; 0: the line is lost */
	int64_t renew_ms;   /* when to renew the lease */
	int64_t retry_ms;   /* no job before */
	bool go_on;         /* take the next when these are done */
	bool letting_go;    /* the outbox is being closed */
	struct slot *slots;
	size_t count;

	/* What the job found, which may run more than once. */
	int64_t taken;    /* the generation to be */
	int64_t until_ms; /* the lease to be */
	int64_t damaged;
	bool ended; /* the line was let go, or is another's, and nothing is on the way */
	struct slot *next;
	size_t next_count;

	pthread_mutex_t lock; /* before the state's */
	/* Guarded by lock. */
	struct mqfs_outbox *outbox; /* NULL: abandoned; then the last to finish frees it */
	size_t on_the_way;          /* published, and not finished */
};

/* The job of each work, within a transaction. -EBUSY: another mount holds the line; -ENOENT: nothing waits. */
int flight_run(struct mqfs_state *state, struct state_job *job);

/* Has all of it been settled, with what is being settled? *ret_well: and does the broker take messages? */
bool flight_is_over(const struct flight *flight, bool *ret_well);
void slots_free(struct slot *slots, size_t count);
/* Is it a refusal, which won't pass by itself? Else it is sent again. */
bool flight_is_refusal(int result);

#endif
