"""Cooperative groups: members join, share windows, take over, return as zombies, and leave."""

import hypothesis.strategies as st
from hypothesis.stateful import rule

from tests.fix_engine import Connection, Message, receive_coop, value
from tests.model.base import GAVE_UP, seldom
from tests.model.consuming import limits, whole_batch, workers
from tests.model.finishing import Finishing, first_limits, nacks
from tests.model.parts import Member, Reader

GROUP = "g"
members = st.sampled_from(["a", "b", "m"])
dead_intervals = st.sampled_from([None, "0", "0", "1 hour"])


class Sharing(Finishing):
    def group(self) -> Reader | None:
        return self.model.readers.get(GROUP)

    def join(self, member: str) -> None:
        group = self.group() or self.subscribe_at(GROUP, self.model.ticks[-1])
        group.members.setdefault(member, Member(member))

    @rule(data=st.data())
    def manage_members(self, data: st.DataObject) -> None:
        self.choose("members", data)

    @rule(
        number=workers,
        member=members,
        limit=limits,
        dead_interval=dead_intervals,
        merged=st.booleans(),
    )
    def share(
        self, number: int, member: str, limit: int, dead_interval: str | None, merged: bool
    ) -> None:
        self.shared(number, member, limit, dead_interval, merged)

    def shared(
        self, number: int, member: str, limit: int, dead_interval: str | None, merged: bool
    ) -> list[Message]:
        group = self.group()
        if number in self.works and (group is None or member not in group.members):
            return []  # members join only in autocommit, so that all sessions see it

        def call(conn: Connection) -> tuple[list[Message], tuple[int, int] | None]:
            rows = receive_coop(
                conn, self.queue, GROUP, member, limit, dead_interval, merged=merged
            )
            return rows, self.span(conn, rows)

        state, result = self.consult(number, call, group)
        if state == GAVE_UP:
            if group is None or member not in group.members:
                self.look_whether_joined(member)
            return []
        if group and not group.members:
            assert state == "PQ008"
            return []
        assert state is None, self.world.refusal
        rows, span = result
        self.join(member)
        group = self.group()
        assert group
        contended = self.is_contended(group, number)
        if self.is_in_doubt(group.members[member], number):
            assert not rows
            return []
        if not rows and self.is_in_doubt(group, number):
            return []
        with self.model.inside(self.works.get(number)):
            takes_over = dead_interval == "0"
            self.check_shared(group, member, rows, span, limit, takes_over, merged, contended)
        return rows

    def look_whether_joined(self, member: str) -> None:
        """Check that a call that gave up also undid its registration."""
        call = "select count(*) from pgque.get_consumer_info(%s) where consumer_name = %s"
        assert self.ask(call, self.queue, f"{GROUP}.{member}") == 0

    @rule(
        number=workers,
        member=members,
        limit=limits,
        dead_interval=dead_intervals,
        first=first_limits,
        nacks=nacks,
    )
    def share_and_ack(
        self,
        number: int,
        member: str,
        limit: int,
        dead_interval: str | None,
        first: int | None,
        nacks: str,
    ) -> None:
        if first:
            self.shared(number, member, first, dead_interval, False)
        rows = self.shared(number, member, limit, dead_interval, False)
        if rows:
            self.finish(number, rows[0].batch_id, nacks)

    @seldom("members", number=workers, member=members)
    def next_batch_of_member(self, number: int, member: str) -> None:
        group = self.group()
        me = group and group.members.get(member)
        if not group or not me or self.is_contended(group, number):
            return
        work = self.works.get(number)
        if me.left is None and group.left is None:
            with self.model.inside(work):
                following = self.model.after(group.at)[:1]
            if not following or not self.model.between(group.at, following[0], group):
                return  # an empty piece would only change the order of takeovers

        def call(conn: Connection) -> tuple[int, list[Message], tuple[int, int]]:
            query = "select pgque.next_batch(%s, %s, %s)"
            batch_id = value(conn, query, self.queue, GROUP, member)
            return batch_id, whole_batch(conn, batch_id), self.span_of(conn, batch_id)

        state, result = self.consult(number, call, group)
        if state == GAVE_UP:
            return
        assert state is None, self.world.refusal
        batch_id, rows, span = result
        model = self.model
        with model.inside(work):
            if me.left is None:
                if group.left is None:
                    model.open_window(group, span, merged=False)
                model.give_piece(group, me, list(group.left or ()))
            model.took_all(me, me.batch.entries if me.batch else me.left or [], rows, batch_id)

    @seldom("members", member=members, convert=st.booleans())
    def register_member(self, member: str, convert: bool) -> None:
        group = self.group()
        call = "select pgque.register_subconsumer(%s, %s, %s, %s)"
        state, added = self.alone(call, self.queue, GROUP, member, convert)
        if state == GAVE_UP:
            return
        if group and not group.members and (not convert or group.batch):
            assert state == "PQ008"
            return
        assert state is None, self.world.refusal
        assert added == (group is None or member not in group.members)
        self.join(member)

    @seldom("members", member=members, handling=st.sampled_from([0, 0, 1]))
    def unregister_member(self, member: str, handling: int) -> None:
        group = self.group()
        me = group.members.get(member) if group else None
        call = "select pgque.unregister_subconsumer(%s, %s, %s, %s)"
        state, removed = self.alone(call, self.queue, GROUP, member, handling)
        if state == GAVE_UP:
            return
        if group is None or me is None:
            assert (state, removed) == (None, 0)
        elif me.left is not None and handling == 0:
            assert state == "PQ012"
        else:
            assert (state, removed) == (None, 1), self.world.refusal
            for event_id in sorted({entry.event.id for entry in me.left or ()}):
                attempts = [entry for entry in me.left or () if entry.event.id == event_id]
                newest = max(attempts, key=lambda entry: entry.retry)
                self.model.nack(group, newest, due=False)
            del group.members[member]

    @seldom("members", member=members)
    def touch_member(self, member: str) -> None:
        group = self.group()
        touched = self.ask("select pgque.touch_subconsumer(%s, %s, %s)", self.queue, GROUP, member)
        assert touched == (group is not None and member in group.members)
