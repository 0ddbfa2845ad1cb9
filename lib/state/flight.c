/* SPDX-License-Identifier: MIT */
#include "flight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <mqfs/clock.h>

/*
 * A flight as the file has it.
 *
 * A line is held while flight_to > 0 and the lease runs: on boot time, which never steps and runs on through suspend,
 * and only in the boot whose id is beside it. Each take of a window gives the line a new generation, so one look tells
 * a flight whether the line is still its own. A mount that was stopped past its lease finds another generation: what
 * the broker has confirmed it takes out all the same (the position says that it is still that very message), and the
 * rest is the other's business.
 */

enum { LEASE_MS = 3000 };

bool flight_is_refusal(int result)
{
	switch (result) {
	case -ENOENT:
	case -ENOSPC:
	case -EFBIG:
	case -EACCES:
	case -EPERM:
	case -EINVAL:
		return true;
	}
	return false;
}

void slots_free(struct slot *slots, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		mqfs_message_free(slots[i].message);
		free(slots[i].reason);
	}
	free(slots);
}

/* 1: nobody else sends this line now; 0: somebody does. */
static int line_is_free(struct mqfs_state *state, const struct flight *flight)
{
	static const char select[] =
	    "SELECT flight_to = 0 OR generation = ?2 OR boot <> ?3 OR lease_until <= ?4 FROM line WHERE id = ?1";
	sqlite3_stmt *statement = state_statement(state, select);
	int64_t is_free;
	int r;

	sqlite3_bind_int64(statement, 1, flight->line_id);
	sqlite3_bind_int64(statement, 2, flight->generation);
	sqlite3_bind_text(statement, 3, state_boot_id(state), -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 4, mqfs_clock_boottime_ms());
	r = statement_integer(statement, 0, &is_free);
	return r < 0 ? r : (int)is_free;
}

static void lease_from_now(struct flight *flight)
{
	flight->renew_ms = mqfs_clock_monotonic_ms() + LEASE_MS / 3;
	flight->until_ms = mqfs_clock_boottime_ms() + LEASE_MS;
}

/* The line becomes this flight's up to a position. */
static int line_take(struct mqfs_state *state, struct flight *flight, int64_t position)
{
	static const char update[] = "UPDATE line SET generation = generation + 1, flight_to = ?2, boot = ?3,"
	                             " lease_until = ?4, pid = ?5 WHERE id = ?1 RETURNING generation";
	sqlite3_stmt *statement = state_statement(state, update);

	lease_from_now(flight);
	sqlite3_bind_int64(statement, 1, flight->line_id);
	sqlite3_bind_int64(statement, 2, position);
	sqlite3_bind_text(statement, 3, state_boot_id(state), -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 4, flight->until_ms);
	sqlite3_bind_int64(statement, 5, getpid());
	return statement_integer(statement, 0, &flight->taken);
}

static int line_release(struct mqfs_state *state, const struct flight *flight)
{
	static const char update[] = "UPDATE line SET flight_to = 0 WHERE id = ?1 AND generation = ?2";
	sqlite3_stmt *statement = state_statement(state, update);

	sqlite3_bind_int64(statement, 1, flight->line_id);
	sqlite3_bind_int64(statement, 2, flight->generation);
	return statement_run(statement);
}

static int line_renew(struct mqfs_state *state, struct flight *flight)
{
	static const char update[] =
	    "UPDATE line SET lease_until = ?3 WHERE id = ?1 AND generation = ?2 AND flight_to > 0";
	sqlite3_stmt *statement = state_statement(state, update);
	int r;

	lease_from_now(flight);
	sqlite3_bind_int64(statement, 1, flight->line_id);
	sqlite3_bind_int64(statement, 2, flight->generation);
	sqlite3_bind_int64(statement, 3, flight->until_ms);
	r = statement_run(statement);
	if (r == 0 && state_changes(state) == 0)
		flight->until_ms = 0;
	return r;
}

/* ---- taking ---- */

static int slot_read(sqlite3_stmt *statement, struct slot *slot)
{
	slot->id = sqlite3_column_int64(statement, 0);
	slot->position = sqlite3_column_int64(statement, 1);
	slot->bytes = sqlite3_column_int64(statement, 2);
	slot->due_us = sqlite3_column_int64(statement, 3);
	return entry_decode(statement, 4, &slot->message);
}

/* Reads the oldest of the line. One that can't be read ends the window before it; as the first it is damaged. */
static int window_read(struct mqfs_state *state, struct flight *flight, size_t limit, struct slot *slots,
                       size_t *ret_count)
{
	static const char select[] =
	    "SELECT e.id, e.position, e.bytes, e.due_at, c.head, c.body FROM entry e"
	    " CROSS JOIN content c ON c.id = e.id WHERE e.line = ?1 AND e.kind = 0 ORDER BY e.position LIMIT ?2";
	sqlite3_stmt *statement = state_statement(state, select);
	size_t bytes = 0, count = 0;
	int r = 0;

	flight->damaged = 0;
	sqlite3_bind_int64(statement, 1, flight->line_id);
	sqlite3_bind_int64(statement, 2, (int64_t)limit);
	while (bytes < FLIGHT_BYTES_MAX && (r = statement_step(statement)) == 1) {
		r = slot_read(statement, &slots[count]);
		if (r < 0)
			break;
		slots[count].flight = flight;
		bytes += (size_t)slots[count++].bytes;
	}
	sqlite3_reset(statement);
	if (r == -EIO && count < limit && slots[count].id > 0) {
		flight->damaged = count == 0 ? slots[0].id : 0;
		r = 0;
	}
	*ret_count = count;
	return r < 0 ? r : 0;
}

/* Marks the oldest as in flight. *ret_count is 0 when nothing waits, or the first is damaged. */
static int window_take(struct mqfs_state *state, struct flight *flight, size_t limit, struct slot **ret_slots,
                       size_t *ret_count)
{
	struct slot *slots = calloc(limit, sizeof(*slots));
	int r = slots ? 0 : -ENOMEM;
	size_t count = 0;

	if (r == 0)
		r = window_read(state, flight, limit, slots, &count);
	if (r == 0 && count > 0)
		r = line_take(state, flight, slots[count - 1].position);
	if (r < 0 || count == 0) {
		if (slots)
			slots_free(slots, limit);
		return r;
	}
	*ret_slots = slots;
	*ret_count = count;
	return 0;
}

static int take(struct mqfs_state *state, struct flight *flight)
{
	int r = line_is_free(state, flight);

	slots_free(flight->slots, flight->count);
	flight->slots = NULL;
	flight->count = 0;
	if (r <= 0) {
		flight->job.result = -EBUSY;
		return r;
	}
	r = window_take(state, flight, flight->line->probing ? 1 : FLIGHT_MESSAGES_MAX, &flight->slots, &flight->count);
	if (r < 0 || flight->count > 0)
		return r;
	flight->job.result = -ENOENT;
	if (flight->damaged == 0)
		return 0;
	return entry_refuse(state, flight->damaged, EIO, "its properties were damaged in the state file");
}

/* ---- settling ---- */

/* 1: the row is there and is still the message that was sent. */
static int is_same(struct mqfs_state *state, const struct slot *slot)
{
	static const char select[] = "SELECT 1 FROM entry WHERE id = ?1 AND kind = 0 AND position = ?2";
	sqlite3_stmt *statement = state_statement(state, select);
	int64_t found;
	int r;

	sqlite3_bind_int64(statement, 1, slot->id);
	sqlite3_bind_int64(statement, 2, slot->position);
	r = statement_integer(statement, 0, &found);
	return r < 0 ? r : (int)found;
}

static int is_held(struct mqfs_state *state, const struct flight *flight)
{
	static const char select[] = "SELECT generation = ?2 AND flight_to > 0 FROM line WHERE id = ?1";
	sqlite3_stmt *statement = state_statement(state, select);
	int64_t held;
	int r;

	sqlite3_bind_int64(statement, 1, flight->line_id);
	sqlite3_bind_int64(statement, 2, flight->generation);
	r = statement_integer(statement, 0, &held);
	return r < 0 ? r : (int)held;
}

static int settle_slot(struct mqfs_state *state, struct slot *slot, bool held)
{
	int r;

	slot->refused = false;
	if (slot->result != 0 && !(held && flight_is_refusal(slot->result)))
		return 0;
	r = is_same(state, slot);
	if (r <= 0)
		return r;
	if (slot->result == 0)
		return entry_delete(state, slot->id, slot->bytes, true);
	slot->refused = true;
	return entry_refuse(state, slot->id, -slot->result, slot->reason);
}

bool flight_is_over(const struct flight *flight, bool *ret_well)
{
	*ret_well = true;
	for (size_t i = 0; i < flight->count; i++) {
		const struct slot *slot = &flight->slots[i];

		if (!slot->settled && !slot->settling)
			return false;
		*ret_well &= slot->result == 0 || flight_is_refusal(slot->result);
	}
	return true;
}

static int settle(struct mqfs_state *state, struct flight *flight)
{
	int held = is_held(state, flight), r = held < 0 ? held : 0;
	bool well;

	slots_free(flight->next, flight->next_count);
	flight->next = NULL;
	flight->next_count = 0;
	for (size_t i = 0; i < flight->count && r == 0; i++)
		if (flight->slots[i].settling)
			r = settle_slot(state, &flight->slots[i], held > 0);
	flight->ended = r == 0 && flight_is_over(flight, &well);
	if (!flight->ended || held == 0)
		return r;
	/* The broker takes messages: the next go out with the same commit. */
	if (well && flight->go_on)
		r = window_take(state, flight, FLIGHT_MESSAGES_MAX, &flight->next, &flight->next_count);
	if (r < 0)
		return r;
	flight->ended = flight->next_count == 0;
	return flight->ended ? line_release(state, flight) : 0;
}

int flight_run(struct mqfs_state *state, struct state_job *job)
{
	struct flight *flight = (struct flight *)job;

	switch (flight->work) {
	case FLIGHT_TAKE:
		return take(state, flight);
	case FLIGHT_SETTLE:
		return settle(state, flight);
	case FLIGHT_RENEW:
		return line_renew(state, flight);
	case FLIGHT_RELEASE:
		return line_release(state, flight);
	}
	return -EINVAL;
}
