/* SPDX-License-Identifier: MIT */
#ifndef FS_DRAFT_H
#define FS_DRAFT_H

#include <stdbool.h>
#include <stdint.h>
#include <uthash.h>

#include <mqfs/message.h>
#include <mqfs/name.h>

#include "complete.h"
#include "fs.h"

/*
 * A draft: a file being written in new/, on its way to becoming a message.
 *
 *          CREATE                       complete (P8)                 confirmed
 *   (none) -------> WRITING -----------------------------> SENDING -------------> GHOST --2 s--> GONE
 *                    ^   | \  nothing written                | ^
 *         opened for |   |  \----------------> EMPTY         | |
 *         writing    |   |  <-------------------/ |          | |  renamed (P7)
 *                    |   |     opened (P7)        |  refused | |
 *                    |   | spoiled, killed        |          v |
 *                    |   +----------------------------------> KEPT
 *                    |                            | renamed     |
 *                    +--------- DOT <-------------+-------------+  renamed to a dot-name
 *                renamed while     \
 *                open for writing   \--- renamed (P2) ---> SENDING ---refused---> what it was before
 *
 * DOT, EMPTY, KEPT and GHOST have a name and are found by it; WRITING and SENDING have none, so that every open
 * for writing is a message of its own. draft_move() is the table. Removing a draft makes it GONE; who still has
 * it open reads and writes nobody's file, as with any unlinked one.
 *
 * A delivery's life (mqfs/delivery.h) is another machine; neither drives the other.
 */
enum draft_state {
	DRAFT_WRITING,
	DRAFT_DOT,
	DRAFT_EMPTY,
	DRAFT_SENDING,
	DRAFT_KEPT,
	DRAFT_GHOST,
	DRAFT_GONE,
	DRAFT_STATES
};

struct draft {
	atomic_uint references;
	struct queue *queue; /* a reference */

	/* All guarded by fs->lock. */
	enum draft_state state;
	enum draft_state before; /* what it was when it became SENDING */
	int priority;            /* of the directory: N of new/@N/, -1 in new/ */
	char *key;               /* "PRIORITY/NAME", the wish; while named, what it is in queue->drafts by */
	const char *name;        /* points into key */
	bool named;
	struct queue *target_queue; /* SENDING by rename: where to, a reference; NULL: as it is */
	int target_priority;
	char *target_name;
	mode_t mode;
	struct mqfs_message *message; /* its properties, and the body while that is written; NULL once sent */
	size_t bytes;                 /* the body's size, also of a ghost */
	int64_t delay_ms;
	int64_t modified_us;
	int64_t accessed_us; /* as it was set; 0: as modified_us */
	struct writers writers;
	unsigned handles; /* open files that can write */
	bool spoiled;     /* a write failed */
	bool killed;      /* a writer was killed in the middle */
	bool attempted;   /* a close() or rename tried to publish it */
	int error;        /* errno of the refusal, positive */
	char *reason;     /* what user.mqfs.error says, or NULL */
	int64_t ghost_until_ms;
	fuse_ino_t dir;            /* where the kernel knows the name, for notify_forget_name */
	UT_hash_handle hh;         /* queue->drafts, by key */
	struct draft *prev, *next; /* queue->ghosts */
};

#define DRAFT_GHOST_MS 2000
/* More than these, and the oldest goes early: at 20,000 messages a second nobody comes back for one. */
#define DRAFT_GHOSTS_MAX 16384

/* All functions are (locked) unless said otherwise. */

/* A new one with one reference, in state WRITING. NULL: out of memory, or too many drafts (errno says which). */
struct draft *draft_new(struct queue *queue, int priority, const char *name, mode_t mode);
struct draft *draft_ref(struct draft *draft);
void draft_unref(struct draft *draft);

/* Moves it to state, along the arrows above only. */
void draft_move(struct draft *draft, enum draft_state state);
bool draft_may(enum draft_state from, enum draft_state to);

/*
 * Prepares it to be published as name in queue's directory of that priority and makes it SENDING. 0; -EIO for what is
 * spoiled or half-written; -EBUSY when it is being sent; -ENOMEM.
 */
int draft_prepare(struct draft *draft, struct queue *queue, int priority, const char *name);

/* The one with this name in new/ (-1) or new/@priority/, or NULL. */
struct draft *draft_find(struct queue *queue, int priority, const char *name);

/* Gives it the name, or name~2, … where a listed one has it; a ghost and an empty draft of the name go. */
void draft_set_name(struct draft *draft, struct queue *queue, int priority, const char *name);
void draft_drop_name(struct draft *draft);

/* Keeps a refused or unfinished draft, listed, with the reason. */
void draft_keep(struct draft *draft, int error, const char *reason);
/* Its message was confirmed: the name answers for 2 s more. */
void draft_become_ghost(struct fs *fs, struct draft *draft);
/* A ghost is renamed: its name moves, and nothing else. */
void draft_move_ghost(struct draft *draft, struct queue *queue, int priority, const char *name);
/* An ordinary file was renamed while it is open for writing: it will be a message of that name, when complete (P2). */
void draft_reopen(struct draft *draft, struct queue *queue, int priority, const char *name);
/* It is removed. */
void draft_discard(struct draft *draft);

/* Lets ghosts go whose time is over; returns when the next is due. */
int64_t drafts_tick(struct fs *fs, struct queue *queue, int64_t now_ms);

/* Is there something to send, and was it never tried? */
bool draft_has_data(const struct draft *draft);

/*
 * Publishes what draft_prepare has prepared. Called without the lock. A confirmed one becomes a ghost; a refused one is
 * kept, or, when a rename sent it, is again what it was; then ticket, when not 0, is answered. deadline_ms: monotonic.
 */
void draft_send(struct fs *fs, struct draft *draft, ticket_t ticket, int64_t deadline_ms);

#endif
