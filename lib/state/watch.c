/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOG_TOPIC "state"
#include <mqfs/log.h>

#include "outbox_internal.h"

/*
 * What the watcher is told, and what this mount keeps in memory. There is one way for all of it, whoever made a change:
 * the file is asked for the revisions after the last that was told.
 */

enum { REVISIONS_MAX = 10000 }; /* the file remembers as many removals */

/* ---- lines ---- */

/* false: out of memory, and it is in neither. */
static bool line_add(struct mqfs_outbox *outbox, struct line *line)
{
	HASH_ADD(by_id, outbox->lines_by_id, id, sizeof(line->id), line);
	if (!line->by_id.tbl)
		return false;
	pthread_mutex_lock(&outbox->lock);
	HASH_ADD_KEYPTR(by_queue, outbox->lines_by_queue, line->queue, strlen(line->queue), line);
	pthread_mutex_unlock(&outbox->lock);
	if (!line->by_queue.tbl)
		HASH_DELETE(by_id, outbox->lines_by_id, line);
	return line->by_queue.tbl;
}

static struct line *line_of(struct mqfs_outbox *outbox, int64_t id, const char *queue)
{
	struct line *line;

	HASH_FIND(by_id, outbox->lines_by_id, &id, sizeof(id), line);
	if (line)
		return line;
	line = calloc(1, sizeof(*line));
	if (!line)
		return NULL;
	line->queue = strdup(queue);
	line->id = id;
	line->probing = true;
	if (line->queue && line_add(outbox, line))
		return line;
	free(line->queue);
	free(line);
	return NULL;
}

static void count(struct mqfs_outbox *outbox, const struct known *known, int sign)
{
	if (!known->waiting)
		return;
	known->line->touched = true;
	pthread_mutex_lock(&outbox->lock);
	known->line->depth.messages += sign;
	known->line->depth.bytes += sign * known->body_bytes;
	outbox->depth.messages += sign;
	outbox->depth.bytes += sign * known->body_bytes;
	pthread_mutex_unlock(&outbox->lock);
}

/* When the oldest of each line came to wait. */
static int find_oldest(struct mqfs_outbox *outbox)
{
	static const char select[] =
	    "SELECT modified_at FROM entry WHERE kind = 0 AND line = ?1 ORDER BY position LIMIT 1";
	int64_t all_us = 0;

	for (struct line *line = outbox->lines_by_id; line; line = line->by_id.next) {
		int64_t oldest_us = line->depth.oldest_us;

		if (line->touched) {
			sqlite3_stmt *statement = state_statement(outbox->state, select);
			int r;

			sqlite3_bind_int64(statement, 1, line->id);
			r = statement_integer(statement, 0, &oldest_us);
			if (r < 0)
				return r;
			line->touched = false;
			pthread_mutex_lock(&outbox->lock);
			line->depth.oldest_us = oldest_us;
			pthread_mutex_unlock(&outbox->lock);
		}
		if (oldest_us > 0 && (all_us == 0 || oldest_us < all_us))
			all_us = oldest_us;
	}
	pthread_mutex_lock(&outbox->lock);
	outbox->depth.oldest_us = all_us;
	pthread_mutex_unlock(&outbox->lock);
	return 0;
}

/* ---- entries ---- */

static struct known *known_find(struct mqfs_outbox *outbox, int64_t id)
{
	struct known *known;

	HASH_FIND(hh, outbox->known, &id, sizeof(id), known);
	return known;
}

static struct known *known_make(struct mqfs_outbox *outbox, int64_t id)
{
	struct known *known = known_find(outbox, id);

	if (known)
		return known;
	known = calloc(1, sizeof(*known));
	if (!known)
		return NULL;
	known->id = id;
	HASH_ADD(hh, outbox->known, id, sizeof(known->id), known);
	if (known->hh.tbl)
		return known;
	free(known);
	return NULL;
}

/* May it be listed and sent? What this program writes may; but somebody's hand may have been in the file. */
static bool is_sound(const struct mqfs_entry *entry)
{
	return entry->queue && entry->queue[0] && entry->name[0] && !strchr(entry->name, '/') &&
	       strcmp(entry->name, ".") != 0 && strcmp(entry->name, "..") != 0;
}

static int tell_changed(struct mqfs_outbox *outbox, const struct entry_row *row)
{
	struct line *line;
	struct known *known;
	bool refused;

	if (!is_sound(&row->entry)) {
		log_warning("%s: entry %" PRId64 " was damaged, and is left where it is",
		            mqfs_state_path(outbox->state), row->entry.id);
		return 0;
	}
	line = line_of(outbox, row->line, row->entry.queue);
	known = line ? known_make(outbox, row->entry.id) : NULL;
	if (!known)
		return -ENOMEM;
	count(outbox, known, -1);
	known->line = line;
	known->waiting = row->entry.kind == MQFS_ENTRY_WAITING;
	known->body_bytes = row->entry.body_bytes;
	known->scan = outbox->scan;
	count(outbox, known, 1);
	refused = known->refused;
	known->refused = false;
	outbox->watcher.changed(outbox->arg, &row->entry);
	if (refused)
		outbox->watcher.refused(outbox->arg, &row->entry);
	return 0;
}

static void tell_removed(struct mqfs_outbox *outbox, int64_t id, bool sent)
{
	struct known *known = known_find(outbox, id);

	if (known) {
		count(outbox, known, -1);
		HASH_DEL(outbox->known, known);
		free(known);
	}
	outbox->watcher.removed(outbox->arg, id, sent);
}

void watch_refused(struct mqfs_outbox *outbox, int64_t id)
{
	struct known *known = known_find(outbox, id);

	if (known)
		known->refused = true;
}

/* ---- looking ---- */

static int read_revision(struct mqfs_outbox *outbox, int64_t *ret_revision)
{
	return statement_integer(state_statement(outbox->state, "SELECT revision FROM about"), 0, ret_revision);
}

int watch_scan(struct mqfs_outbox *outbox)
{
	static const char select[] = "SELECT " ENTRY_COLUMNS ENTRY_FROM " ORDER BY e.revision";
	sqlite3_stmt *statement;
	struct known *known, *next;
	struct entry_row row;
	int64_t revision;
	int r = read_revision(outbox, &revision);

	if (r < 0)
		return r;
	outbox->scan++;
	statement = state_statement(outbox->state, select);
	while ((r = statement_step(statement)) == 1) {
		entry_read(outbox->state, statement, &row);
		r = tell_changed(outbox, &row);
		if (r < 0)
			break;
	}
	sqlite3_reset(statement);
	if (r < 0)
		return r;
	HASH_ITER(hh, outbox->known, known, next)
	if (known->scan != outbox->scan)
		tell_removed(outbox, known->id, false);
	outbox->seen = revision;
	return find_oldest(outbox);
}

/* Changes and removals in the order in which they were made. */
static int tell_news(struct mqfs_outbox *outbox)
{
	static const char select[] =
	    "SELECT " ENTRY_COLUMNS ENTRY_FROM " WHERE e.revision > ?1"
	    " UNION ALL SELECT revision, id, -1, sent, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0"
	    " FROM removal WHERE revision > ?1 ORDER BY 1";
	sqlite3_stmt *statement = state_statement(outbox->state, select);
	struct entry_row row;
	int r;

	sqlite3_bind_int64(statement, 1, outbox->seen);
	while ((r = statement_step(statement)) == 1) {
		if (sqlite3_column_int(statement, 2) == -1) {
			tell_removed(outbox, sqlite3_column_int64(statement, 1), sqlite3_column_int(statement, 3) != 0);
		} else {
			entry_read(outbox->state, statement, &row);
			r = tell_changed(outbox, &row);
			if (r < 0)
				break;
		}
		outbox->seen = sqlite3_column_int64(statement, 0);
	}
	sqlite3_reset(statement);
	return r < 0 ? r : 0;
}

int watch_sync(struct mqfs_outbox *outbox)
{
	int64_t revision;
	int r = read_revision(outbox, &revision);

	if (r < 0 || revision == outbox->seen)
		return r;
	if (revision - outbox->seen > REVISIONS_MAX)
		return watch_scan(outbox);
	r = tell_news(outbox);
	return r < 0 ? r : find_oldest(outbox);
}

bool watch_news(struct mqfs_outbox *outbox)
{
	int64_t version;

	if (statement_integer(state_statement(outbox->state, "PRAGMA data_version"), 0, &version) < 0 ||
	    version == outbox->data_version)
		return false;
	outbox->data_version = version;
	return true;
}

void watch_free(struct mqfs_outbox *outbox)
{
	struct known *known, *next;
	struct line *line, *after;

	HASH_ITER(hh, outbox->known, known, next)
	{
		HASH_DEL(outbox->known, known);
		free(known);
	}
	HASH_CLEAR(by_queue, outbox->lines_by_queue);
	HASH_ITER(by_id, outbox->lines_by_id, line, after)
	{
		HASH_DELETE(by_id, outbox->lines_by_id, line);
		free(line->queue);
		free(line);
	}
}
