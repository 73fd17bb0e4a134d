// What an explorer asks for: of the kernel, or of the folder beside the page

let questions = 0

// What the kernel answers: the shapes of arrays, and bytes
export const ask = (model, words, ...bytes) => new Promise(resolve => {
    const question = questions++
    const hear = (message, buffers) => {
        if (message.question !== question) return
        model.off('msg:custom', hear)
        const contents = buffers.map(({ buffer, byteOffset, byteLength }) =>
            buffer.slice(byteOffset, byteOffset + byteLength))
        resolve([message.arrays, contents])
    }
    model.on('msg:custom', hear)
    model.send({ ...words, question }, {}, bytes)
})

// The bytes of a file, from the one or the other
export async function getFile(model, name) {
    if (model.send) return new Uint8Array((await ask(model, { file: name }))[1][0])
    const folder = new URL(`${model.get('state').folder}/`, document.baseURI)
    const answer = await fetch(new URL(name, folder))
    if (!answer.ok) throw new Error(`${name} is not there`)
    return new Uint8Array(await answer.arrayBuffer())
}
