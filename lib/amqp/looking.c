/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>

#include "looking_internal.h"
#include "publisher.h"
#include "topology.h"

/*
 * A browse asks topology which queues of the place hold anything (a basic.get from one that isn't there costs
 * the channel), then gets from one after the other, several gets on their way at a time. What it got is
 * held in the shelf's channel: there is a shelf for each queue and place, so that a channel that the
 * broker closes takes no other's messages along. It is closed when nothing is held any more.
 *
 * What was got and not settled is not counted as ready. A queue that is being deleted must not look empty for that:
 * of a quorum queue, as the delay levels are, the broker counts each that was got as a consumer, but of Q.dead, a
 * classic queue (unless somebody else made it), it says nothing. So its shelf has a consumer too, from before the
 * first get until it is closed. One can't be had without a message, if there is any: that is the spare, until a
 * browse takes it, in place of one that it gets beyond its limit, which goes back.
 *
 * A look puts back by nack, which is harmless where there is no delivery limit; settling.c knows where there is.
 */

/* ---- what the broker says ---- */

/* Any shelf's gets are answers that it owes. */
static void note_owed(struct looking *looking)
{
	struct shelf *shelf, *tmp;
	bool owed = false;

	HASH_ITER(by_key, looking->shelves, shelf, tmp)
	{
		owed |= shelf->browses && shelf->browses->asked > 0;
	}
	connection_expect(looking->connection, owed);
}

static void on_message(void *arg, struct frame_content *content)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, content->channel);

	if (!shelf)
		return;
	shelf_receive(looking, shelf, content);
	note_owed(looking);
	shelf_continue(looking, shelf);
}

static void on_empty(void *arg, amqp_channel_t channel)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, channel);

	if (!shelf || !shelf->browses || shelf->browses->asked == 0)
		return;
	shelf->browses->asked--;
	shelf->browses->exhausted = true;
	note_owed(looking);
	shelf_continue(looking, shelf);
}

/* Q.dead was deleted, or its node is down: what was held of it is there again, or gone with it. */
static void on_cancelled(void *arg, amqp_channel_t channel, const char *consumer_tag)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, channel);

	(void)consumer_tag;
	if (!shelf)
		return;
	shelf_fail(looking, shelf, 0);
	connection_channel_close(looking->connection, channel);
}

static void on_channel_closed(void *arg, amqp_channel_t channel, int code, const char *text)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, channel);

	(void)text;
	connection_channel_gone(looking->connection, channel);
	/* A queue that has just been deleted holds nothing. */
	if (shelf)
		shelf_fail(looking, shelf, code == AMQP_NOT_FOUND ? 0 : connection_errno(code));
}

static void on_released(struct holder *holder, void *owner)
{
	(void)holder;
	(void)owner;
}

/* ---- the role ---- */

static int looking_opened(void *arg)
{
	(void)arg;
	return 0;
}

static void looking_lost(void *arg, int result, const char *reason)
{
	struct looking *looking = arg;
	struct shelf *shelf, *tmp;

	(void)reason;
	HASH_ITER(by_key, looking->shelves, shelf, tmp)
	{
		shelf_fail(looking, shelf, result);
	}
}

static int64_t looking_work(void *arg, int64_t now_ms)
{
	struct looking *looking = arg;
	struct shelf *shelf, *tmp;
	int64_t due_ms = MQFS_NEVER;

	HASH_ITER(by_key, looking->shelves, shelf, tmp)
	{
		amqp_channel_t channel = shelf->holder.channel;

		shelf_expire(shelf, now_ms, &due_ms);
		if (shelf->browses || shelf->holder.held || connection_is_behind(looking->connection))
			continue;
		shelf_fail(looking, shelf, 0);
		connection_channel_close(looking->connection, channel);
	}
	return due_ms;
}

static const struct frame_events looking_events = {
    .content = on_message,
    .empty = on_empty,
    .cancelled = on_cancelled,
    .channel_closed = on_channel_closed,
};

const struct connection_role looking_role = {
    .name = "look",
    .lazy = true,
    .events = &looking_events,
    .opened = looking_opened,
    .lost = looking_lost,
    .work = looking_work,
};

struct looking *looking_new(struct connection *connection, struct publisher *publisher, struct topology *topology,
                            _Atomic uint64_t *generations)
{
	struct looking *looking = calloc(1, sizeof(*looking));

	if (!looking)
		return NULL;
	looking->connection = connection;
	looking->topology = topology;
	looking->generations = generations;
	looking->settling = (struct settling){.connection = connection,
	                                      .publisher = publisher,
	                                      .topology = topology,
	                                      .released = on_released,
	                                      .flush_ms = MQFS_NEVER};
	return looking;
}

struct looking *looking_free(struct looking *looking)
{
	if (!looking)
		return NULL;
	assert(!looking->shelves);
	free(looking);
	return NULL;
}

struct settling *looking_settling(struct looking *looking)
{
	return &looking->settling;
}

/* ---- browses ---- */

static void browse_run(struct job *job, void *role)
{
	struct browse *browse = (struct browse *)job;
	struct looking *looking = role;
	struct shelf *shelf = shelf_get(looking, browse->place, browse->queue);
	int r;

	if (!shelf) {
		browse_fail(job, -ENOMEM, NULL);
		return;
	}
	DL_APPEND(shelf->browses, browse);
	r = shelf_open(looking, shelf, browse);
	if (r < 0) {
		shelf_fail(looking, shelf, r == -ENOENT ? 0 : r == -ECONNRESET ? -ETIMEDOUT : r);
		return;
	}
	shelf_continue(looking, shelf);
}

/* On topology's thread. */
static void levels_found(void *arg, int result, const int64_t *levels_ms, size_t count)
{
	struct browse *browse = arg;

	if (result < 0 || count == 0) {
		browse_fail(&browse->job, result == -ENOENT ? 0 : result, NULL);
		return;
	}
	assert(count <= KNOWN_LEVELS);
	memcpy(browse->levels, levels_ms, count * sizeof(*levels_ms));
	browse->levels_count = count;
	connection_submit(browse->looking->connection, &browse->job);
}

int looking_browse(struct looking *looking, const char *queue, enum mqfs_place place, size_t limit, int64_t deadline_ms,
                   mqfs_browse_fn *done, void *arg)
{
	struct browse *browse = calloc(1, sizeof(*browse));

	if (!browse)
		return -ENOMEM;
	*browse = (struct browse){
	    .job = {.run = browse_run,
	            .fail = browse_fail,
	            .deadline_ms = deadline_ms,
	            .late_result = -EHOSTDOWN,
	            .away_result = -EHOSTDOWN},
	    .looking = looking,
	    .queue = strdup(queue),
	    .place = place,
	    .limit = limit,
	    .done = done,
	    .arg = arg,
	};
	if (browse->queue && topology_levels(looking->topology, queue, place, deadline_ms, levels_found, browse) == 0)
		return 0;
	browse_free(browse);
	return -ENOMEM;
}
