// Rank-1, AP and INP: ranked lists whose pictures are moved by hand
import { BLUE, ORANGE, axes, box, clip, explorer, line, scale, text } from './kit.js'

// ---------------------------------------------------------------- the numbers

const sum = values => values.reduce((total, x) => total + x, 0)
const mean = values => sum(values) / values.length

// Ranks, from 1, of the right pictures of a list
const found = ({ query, people, order }) =>
    order.flatMap((n, rank) => (people[n] === query ? [rank + 1] : []))

function score(list) {
    const ranks = found(list)
    const precision = ranks.map((rank, n) => (n + 1) / rank)
    return { first: ranks[0], AP: mean(precision), INP: ranks.length / ranks.at(-1) }
}

// ---------------------------------------------------------------- the picture

const SIZE = 38, LEFT = 78, TOP = 34, APART = 62
const x = rank => LEFT + SIZE * rank, y = row => TOP + 20 + APART * row  // rank from 0

function lists(state) {
    const rows = state.lists.map((list, row) => {
        const { AP, INP } = score(list)
        return text(4, y(row) + 4, `query ${list.query}`, 'style="text-anchor:start"') +
            text(LEFT + 5.5 * SIZE + 6, y(row) - 3, `AP ${AP.toFixed(3)}`, 'style="text-anchor:start"') +
            text(LEFT + 5.5 * SIZE + 6, y(row) + 13, `INP ${INP.toFixed(3)}`, 'style="text-anchor:start"')
    })
    const ranks = [1, 2, 3, 4, 5, 6].map(rank => text(x(rank - 1), 22, rank, 'opacity="0.75"'))
    return text(4, 22, 'rank', 'style="text-anchor:start" opacity="0.75"') + ranks.join('') + rows.join('')
}

const tile = (person, right) =>
    box(-16, -18, 32, 36, `rx="3" fill="${right ? BLUE : ORANGE}" fill-opacity="0.5" stroke="currentColor"`) +
    text(0, -2, person) + text(0, 13, right ? '✓' : '✗')

const handles = state => state.lists.flatMap(({ query, people, order }, row) =>
    people.map((person, n) => {
        const rank = order.indexOf(n)
        return {
            key: `${row}${n}`, x: x(rank), y: y(row), mark: tile(person, person === query),
            label: `query ${query}, picture of person ${person}, ${person === query ? 'right' : 'wrong'}`,
            value: rank + 1, range: [1, people.length], says: `rank ${rank + 1} of ${people.length}`,
        }
    }))

function move(state, key, left) {
    const row = Number(key[0]), n = Number(key[1])
    const list = state.lists[row]
    const rank = clip(Math.round((left - LEFT) / SIZE), 0, list.order.length - 1)
    const order = list.order.filter(other => other !== n)
    order.splice(rank, 0, n)
    return { ...state, lists: state.lists.map((old, i) => (i === row ? { ...old, order } : old)) }
}

function cmc(state) {
    const first = state.lists.map(list => score(list).first)
    const across = scale(0, 6, 40, 250), up = scale(0, 1, 190, 30)
    const shares = [1, 2, 3, 4, 5, 6].map(k => mean(first.map(rank => (rank <= k ? 1 : 0))))
    const corners = shares.flatMap((share, k) => [[across(k), up(share)], [across(k + 1), up(share)]])
    const ranks = shares.map((_, k) => text(across(k + 0.5), 205, k + 1))
    return axes({ left: 40, right: 250, top: 30, bottom: 190, x: ['', ''], y: [0, 1], across: '',
        up: 'CMC: share with a right picture' }) + ranks.join('') + text(145, 220, 'down to rank') +
        line(corners, `style="stroke:${BLUE}" stroke-width="2.5"`)
}

function words(state) {
    const scores = state.lists.map(score)
    const share = values => `${(100 * mean(values)).toFixed(1)}%`
    return `Rank-1 ${share(scores.map(s => (s.first === 1 ? 1 : 0)))}, ` +
        `mAP ${share(scores.map(s => s.AP))}, mINP ${share(scores.map(s => s.INP))}.`
}

export default explorer({
    panels: [
        { width: 356, height: 225, label: 'Three ranked lists, whose pictures can be moved', draw: lists },
        { width: 270, height: 225, label: 'CMC of the three queries', draw: cmc },
    ],
    handles, move, words, step: [SIZE, 0],
    controls: [],
})
